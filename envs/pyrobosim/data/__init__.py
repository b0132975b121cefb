"""Categories of furniture and objects of generated worlds, in pyrobosim's own schema."""
