"""The conversation of a session: a chat as tokens, and the record of what was read."""
