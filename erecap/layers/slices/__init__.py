"""Structural slices of a model: KV groups and MLP channels that matter least, and plans made of them."""
