"""Ways to draft: what texts are searched, what is proposed, and how many tokens of it are worth verifying."""
