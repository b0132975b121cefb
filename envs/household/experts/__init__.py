"""Experts of the household: an oracle of the true state, and one that searches by what the episode's text has shown."""
