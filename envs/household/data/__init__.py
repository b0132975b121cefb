"""Data of the household: floor plans, where things can be, and the files that hold a game."""
