"""Benchmarks of sessions on vLLM."""
