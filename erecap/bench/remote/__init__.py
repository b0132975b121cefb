"""Recorded chats counted as a remote planner would have been sent them."""
