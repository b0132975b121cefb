"""Errors for the person at the keyboard: one line that says what is wrong, where, and what is allowed."""

from __future__ import annotations


class ErecapError(Exception):
    """Base of all errors that the command line prints as one line instead of a traceback."""

    exit_code = 1


class ConfigError(ErecapError):
    """A configuration, a command-line value or an input file is not usable as given."""

    exit_code = 2


class ModelError(ErecapError):
    """A model, tokenizer or checkpoint could not be fetched, loaded or used."""


class MessagesError(ModelError):
    """Chat messages that the model's chat template or tokenizer does not take."""


class EnvironmentUnavailable(ErecapError):
    """A simulator or its package is missing on this machine."""


class GameError(ErecapError):
    """A game or episode file is corrupt or cannot be played."""


class RunError(ErecapError):
    """A run folder is missing, damaged, or belongs to another configuration."""


class BudgetError(ErecapError):
    """Protected tokens do not fit the budget or the model's window."""
