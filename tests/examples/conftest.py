"""Servers for the examples that want one."""

from tests.serving.conftest import serve

__all__ = ["serve"]
