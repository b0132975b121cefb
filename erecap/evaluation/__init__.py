"""Quality: paired episodes, plan agreement, and the figures and tables that are made of them."""
