"""Worlds as pyrobosim's own YAML: generated ones, and those of a file."""
