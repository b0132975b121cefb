"""The ALFWorld engine: worlds, states and a fast grammar for their texts."""
