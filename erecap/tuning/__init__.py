"""Tuning of pruning layers: stage sets compared by their speed-up and their agreement."""
