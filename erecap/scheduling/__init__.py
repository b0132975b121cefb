"""Scheduling: what to do in a replanning call, decided from predicted costs."""
