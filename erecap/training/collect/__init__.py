"""Collecting: episodes of an expert, or of a planner that an expert corrects, as chats."""
