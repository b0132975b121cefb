"""The rows of executors, in the order of writing and with their token counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from erecap.generation import JsonRow, Message
from erecap.rollout.jobs import Job, Played
from erecap.training.collect.episode import Collected, Recipe
from erecap.training.collect.trajectories import Trajectory

CountTokens = Callable[[Sequence[Message]], int]


def token_counter(recipe: Recipe) -> CountTokens | None:
    """Counts the tokens of a whole chat; None where no tokenizer is named. Raises ModelError as `load_tokenizer`."""
    if recipe.tokenizer is None:
        return None
    from erecap.context.tokenize import render_prompt
    from erecap.models import locate
    from erecap.models.loading import load_tokenizer

    tokenizer = load_tokenizer(locate(recipe.tokenizer))
    return lambda messages: len(render_prompt(messages, tokenizer, add_generation_prompt=False).input_ids)


def ordered_rows(
    results: Iterator[Played], missing: Sequence[Job], recipe: Recipe, count: CountTokens | None
) -> Iterator[tuple[Trajectory, ...]]:
    """The rows of each episode, in the order of `missing`, each as soon as all before it are there."""
    early: dict[Job, Played] = {}
    due = 0
    for result in results:
        early[result.job] = result
        while due < len(missing) and missing[due] in early:
            yield tuple(_measured(row, recipe, count) for row in _rows(early.pop(missing[due]), recipe))
            due += 1


def _rows(played: Played, recipe: Recipe) -> tuple[Trajectory, ...]:
    if isinstance(played, Collected) and played.trajectories:
        return played.trajectories
    # A game that could not be opened, or a worker that died.
    job, row = played.job, played.episode
    lost = Trajectory(
        suite=job.suite,
        episode=job.episode,
        seed=job.seed,
        source=recipe.source(job),
        goal=row["goal"],
        success=False,
        steps=0,
        max_steps=recipe.max_steps,
        messages=[],
        targets=[],
        error=row["error"],
    )
    return (lost,)


def _measured(row: Trajectory, recipe: Recipe, count: CountTokens | None) -> Trajectory:
    """The row with its length; one that is too long loses its chat, and says so."""
    if count is None or not row.messages:
        return row
    tokens = count([Message(role=message.role, content=message.content) for message in row.messages])
    if recipe.max_tokens is None or tokens <= recipe.max_tokens:
        return row.model_copy(update={"tokens": tokens})
    why = f"dropped: {tokens} tokens, more than max_tokens {recipe.max_tokens}"
    return row.model_copy(update={"tokens": tokens, "messages": [], "targets": [], "error": row.error or why})


def shown(row: Trajectory) -> JsonRow:
    """A row as the progress display wants it. Dropped episodes are left to the final table."""
    error = None if row.error is None or row.error.startswith("dropped") else row.error
    return {
        "suite": row.suite,
        "mode": row.source,
        "episode": row.episode,
        "success": row.success,
        "error": error,
    }
