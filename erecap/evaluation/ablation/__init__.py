"""Ablation: the parts of a mode, switched off one at a time on one workload."""
