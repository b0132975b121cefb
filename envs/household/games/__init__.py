"""Household games: generated from real floor plans, read from files, chained, and checked."""
