"""The documentation site: hooks of mkdocs."""
