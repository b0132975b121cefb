"""Training of a controller: a table of what each action takes and costs, learning on it, baselines, report."""
