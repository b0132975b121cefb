"""The pruned KV cache: layouts of layers, and the transaction of a read."""
