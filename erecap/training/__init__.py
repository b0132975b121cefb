"""From played episodes to trained weights: trajectories, planner fine-tuning, pruner training."""
