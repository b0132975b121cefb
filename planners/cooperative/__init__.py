"""Cooperating planners: several take turns, tell each other what matters, and have their plans merged."""
