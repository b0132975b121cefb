"""Tuning of a model on texts: pruning stages by their speed-up and agreement, and searches for layer plans."""
