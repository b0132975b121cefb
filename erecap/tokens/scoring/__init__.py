"""Scorers: they give tokens their importance scores, by fixed rules or learned pruners."""
