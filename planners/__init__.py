"""Planners: what turns the context of an episode into the next few commands."""
