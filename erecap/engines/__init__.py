"""Engines: what holds a conversation's keys and values and runs its forward passes."""
