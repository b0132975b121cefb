"""Language models: chat messages in, plan text out, in every mode."""
