"""Grammar: which texts are admissible commands, as tokens."""
