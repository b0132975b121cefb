"""Plan agreement of the variants with the unpruned model: teacher-forced, on the expert's plans, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from erecap.config.load import load_suites
from erecap.config.modes import parse_mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import RunError
from erecap.evaluation.ablation.parts import Variant
from erecap.evaluation.plan_agreement import SeveralCompared, session_of
from erecap.generation import JsonRow
from erecap.rollout.components import RealComponents
from erecap.rollout.episode import play
from erecap.rollout.jobs import all_jobs
from erecap.rollout.run_folder.identity import identity_of, weights_of
from erecap.rollout.run_folder.interrupt import Interrupts
from erecap.rollout.run_folder.writer import encode_row
from erecap.untrusted import parse_json

REFERENCE = "reuse"


def compare_variants(
    path: Path, config: RunConfig, variants: Sequence[Variant], say: Callable[[str], None], *, fresh: bool = False
) -> list[JsonRow]:
    """Compare the plans of every episode that the file `path` lacks, and add a row a variant and episode.

    Args:
        config: has the variants among its modes, and the mode `reuse`, which is the unpruned model.

    Returns:
        All rows: `suite`, `episode`, `variant`, counts of tokens, and the identity of what was compared.

    Raises:
        RunError: as `rows_done`.
        KeyboardInterrupt: after SIGINT or SIGTERM; every finished episode has its rows.
    """
    suites = load_suites(config)
    identities = identities_of(config, suites, variants)
    rows = [] if fresh else rows_done(path, identities)
    done = {(row["suite"], row["episode"]) for row in rows if (row["suite"], row["variant"]) in identities}
    jobs = [job for job in all_jobs(suites, [REFERENCE], 0) if (job.suite, job.episode) not in done]
    if fresh:
        path.unlink(missing_ok=True)
    if not jobs:
        return rows
    path.parent.mkdir(parents=True, exist_ok=True)
    components = RealComponents(config, suites)
    modes = [parse_mode(REFERENCE), *(config.mode(variant.name) for variant in variants)]
    try:
        with Interrupts() as interrupts:
            components.prepare(modes, say)
            for job in jobs:
                unpruned, *others = (session_of(components.language_model(mode)) for mode in modes)
                sides = {variant.name: other for variant, other in zip(variants, others, strict=True)}
                planner = SeveralCompared(unpruned, sides, config.planner.max_steps)
                suite = suites[job.suite]
                play(job, suite, components.env(suite, expert=True), planner, config.planner)
                head = {"suite": job.suite, "episode": job.episode}
                added = [
                    {**head, "variant": name, **vars(counts), **identities[job.suite, name]}
                    for name, counts in planner.by_name.items()
                ]
                with interrupts.held(), path.open("ab") as file:
                    file.write(b"".join(map(encode_row, added)))
                rows += added
                say(f"agreement: episode {job.episode} of {job.suite} compared")
    finally:
        components.close()
    return rows


def identities_of(
    config: RunConfig, suites: Mapping[str, Suite], variants: Sequence[Variant]
) -> dict[tuple[str, str], JsonRow]:
    """The fields that rows of a suite and a variant have of the settings that they depend on."""
    weights = weights_of(config)
    return {
        (name, variant.name): identity_of(config, suite, config.mode(variant.name), weights).fields()
        for name, suite in suites.items()
        for variant in variants
    }


def rows_done(path: Path, identities: Mapping[tuple[str, str], JsonRow]) -> list[JsonRow]:
    """The rows of a file, all of which were compared as `identities` say.

    Raises:
        RunError: a damaged row, one of another configuration, or an episode that was compared for other variants.
    """
    rows = rows_of(path)
    compared: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        wanted = identities.get((row["suite"], row["variant"]))
        if wanted is None:
            continue
        other = next((field for field in wanted if row.get(field) != wanted[field]), None)
        if other is not None:
            raise RunError(
                f"{path}: compared with {other} {row.get(other)}, now it is {wanted[other]}; --fresh compares anew, "
                "--out FOLDER keeps both"
            )
        compared.setdefault((row["suite"], row["episode"]), set()).add(row["variant"])
    for (suite, _), own in compared.items():
        lacking = {variant for name, variant in identities if name == suite} - own
        if lacking:
            raise RunError(f"{path}: compared without {min(lacking)}; --fresh compares anew")
    return rows


def rows_of(path: Path) -> list[JsonRow]:
    """The rows of a file; none where there is no file, and without a last line that was cut off."""
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if lines.pop() != b"":
        path.write_bytes(b"".join(line + b"\n" for line in lines))
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            counts = {name: int(row[name]) for name in ("episode", "plan_tokens", "agreed")}
            rows.append({**row, "suite": row["suite"], "variant": row["variant"], **counts})
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}:{number}: the row is damaged; --fresh compares anew") from error
    return rows
