"""The front of layer plans: measured speed against agreement, perplexity and success, with eviction and drafts."""
