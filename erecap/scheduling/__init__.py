"""Scheduling: the scheduler's decision in a replanning call, from predicted costs."""
