"""Executors: how the episodes of a run are spread over processes and machines."""
