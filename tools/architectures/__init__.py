"""The table of causal architectures in the documentation, made by trying each of them."""
