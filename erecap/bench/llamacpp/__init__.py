"""The comparison with llama.cpp, which runs in an interpreter of its own."""
