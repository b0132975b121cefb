"""Ways to draft side by side: accepted tokens, tokens a pass, and time, beside plain decoding."""
