"""Training a pruner: heads that predict saliency, and the test that one has to pass."""
