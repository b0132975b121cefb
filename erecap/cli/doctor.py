"""`erecap doctor`: check that this machine has what the package needs."""

from __future__ import annotations


def doctor() -> None:
    """Check Python, packages, extras, simulators, plug-ins, processor and model, and say what to do for each gap."""
    from erecap.cli.checks import show_checks
    from erecap.doctor import run_checks

    show_checks(run_checks())
