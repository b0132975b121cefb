"""Data of the household: floor plans, object placement, and the files that hold a game."""
