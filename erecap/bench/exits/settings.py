"""Settings of the bench of early exits."""

from __future__ import annotations

from dataclasses import dataclass

from erecap.errors import ConfigError


@dataclass(frozen=True)
class ExitsBench:
    """Settings of `erecap bench exits`.

    Raises:
        ConfigError: a value out of range.
    """

    texts: int = 40  # texts of each source at most; half of them choose the small vocabulary
    tokens: int = 1000  # decoded tokens that are looked at, at most
    max_tokens: int = 4096  # of one text; the rest is cut
    new_tokens: int = 64  # of an answer that the model writes itself, to a prompt without one
    games: int = 8  # household games that the model plays where no source is named
    small: int = 512  # tokens of the small vocabulary: those that the texts decode most
    candidates: int = 4  # of the draft
    kv: int = 1000  # stored tokens while layers and head are timed
    drafts: int = 3  # tokens drafted before one pass verifies them
    repetitions: int = 15
    timed: int = 8  # texts whose last answer is decoded with early exit, where a predictor or a layer is given
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "texts",
            "tokens",
            "new_tokens",
            "games",
            "small",
            "candidates",
            "kv",
            "drafts",
            "repetitions",
            "timed",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.max_tokens < 16:
            raise ConfigError(f"max_tokens must be 16 or more, got {self.max_tokens}")
