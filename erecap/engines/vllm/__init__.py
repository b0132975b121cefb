"""The engine on vLLM: a KV connector that keeps sessions' keys and values, and the frontend that asks for them."""
