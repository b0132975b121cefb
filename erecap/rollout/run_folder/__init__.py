"""The run folder: rows, writer, lock, resuming."""
