"""Training a planner: fine-tuning on collected chats."""
