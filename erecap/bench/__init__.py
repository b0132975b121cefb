"""Benchmarks: the time of a replanning call against the length of the history, and its floor."""
