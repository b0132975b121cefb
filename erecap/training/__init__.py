"""Training: trajectories of played episodes, planner fine-tuning, pruner training."""
