"""Decoding on top of a session: constrained, drafted, verified."""
