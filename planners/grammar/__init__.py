"""Grammar: admissible commands as tokens."""
