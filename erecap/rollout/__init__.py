"""Plays episodes and writes them down: the episode loop, the executors, and the run format."""
