"""The pruned KV cache: which layer stores which tokens, and the transaction of a read."""
