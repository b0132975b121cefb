"""Bounds of early exit: where tokens are named, and what leaving there could save."""
