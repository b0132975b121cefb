"""Generated houses: their description, the generator and the files that habitat-sim loads."""
