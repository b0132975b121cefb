"""Prices of remote models, and the rule when shortening a chat pays."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from erecap.config.source import parse_yaml
from erecap.errors import ConfigError

PRICES = Path(__file__).with_name("prices.yaml")


class ModelPrices(BaseModel):
    """Prices of a model's tokens, in US dollars for a million."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, description="Prompt tokens that are not in the cache.")
    cached_input: float = Field(ge=0, description="Prompt tokens that are.")
    output: float = Field(ge=0, description="Generated tokens.")
    cache_write: float | None = Field(
        default=None, ge=0, description="Prompt tokens that enter the cache; null: the price of input."
    )

    @model_validator(mode="after")
    def _cached_is_cheaper(self) -> ModelPrices:
        if self.cached_input > self.uncached:
            raise ValueError(f"cached_input {self.cached_input} is above the price of uncached input, {self.uncached}")
        return self

    @property
    def uncached(self) -> float:
        """Price of a prompt token that is not in the cache yet, and stays there for the next call."""
        return self.input if self.cache_write is None else self.cache_write

    def dollars(self, *, cached: int, uncached: int, output: int, caching: bool = True) -> float:
        """Cost of calls with so many tokens; without `caching` all prompt tokens cost the price of input."""
        if not caching:
            return ((cached + uncached) * self.input + output * self.output) / 1e6
        return (cached * self.cached_input + uncached * self.uncached + output * self.output) / 1e6


def load_prices(path: Path = PRICES) -> dict[str, ModelPrices]:
    """Prices by model name, from a YAML file.

    Raises:
        ConfigError: the file is missing, no YAML, or has an entry that is no price.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; it should hold prices by model") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no YAML: {error}") from error
    content = parse_yaml(str(path), text)
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path}: no prices; it should map model names to input, cached_input and output")
    prices = {}
    for name, values in content.items():
        try:
            prices[str(name)] = ModelPrices.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in (name, *first["loc"]))
            raise ConfigError(f"{path}: {where}: {first['msg']}") from error
    return prices


def prices_of(model: str, path: Path = PRICES) -> ModelPrices:
    """The prices of one model.

    Raises:
        ConfigError: as `load_prices`, or the model is not listed.
    """
    prices = load_prices(path)
    if model not in prices:
        raise ConfigError(f"{path.name}: no prices of {model!r}; listed: {', '.join(sorted(prices))}")
    return prices[model]


def edit_pays(removed: int, after: int, cached_price: float, uncached_price: float, remaining_calls: int) -> bool:
    """Return True if taking text out of the chat costs less than leaving it in.

    Every later call saves the cached price of what was removed; the next one must pay the full price for what comes
    after the edit, since a prefix cache ends where the text first differs:

        removed * cached * remaining_calls > after * (uncached - cached)

    So edits pay near the end of the chat, in batches, or when nothing is cached anyway.

    Args:
        removed: tokens taken out.
        after: tokens behind the edit, which are re-read once.
        cached_price, uncached_price: of one prompt token found in the cache or not, in one currency.
        remaining_calls: calls that will still be made with this chat.

    Raises:
        ValueError: a negative number, or a cached price above the uncached one.
    """
    if min(removed, after, cached_price, uncached_price, remaining_calls) < 0:
        raise ValueError("tokens, prices and calls cannot be negative")
    if cached_price > uncached_price:
        raise ValueError(f"the cached price {cached_price} is above the uncached one {uncached_price}")
    return removed * cached_price * remaining_calls > after * (uncached_price - cached_price)
