"""Profiles of a model over lengths: cold prefill, whole replanning calls, and peak memory."""
