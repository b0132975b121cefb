"""An OpenAI-compatible server: replanning sessions behind a URL, or a proxy that shortens text."""
