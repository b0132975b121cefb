"""Habitat scenes as a text environment: see README.md in this folder."""
