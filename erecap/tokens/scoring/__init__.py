"""Scorers: what gives tokens their importance, fixed rules and learned pruners."""
