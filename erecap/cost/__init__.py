"""Costs of calls: FLOPs, milliseconds, prices."""
