"""The engine on llama.cpp: GGUF models, with eviction inside llama.cpp's own memory. Without torch."""
