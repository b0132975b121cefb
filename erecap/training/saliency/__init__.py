"""Saliency: labels of how much later plans need each token."""
