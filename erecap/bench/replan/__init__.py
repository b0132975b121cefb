"""Time of a replanning call against the length of the history."""
