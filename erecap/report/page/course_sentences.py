"""Three sentences on what a run with re-read calls showed, all of them from its rows."""

from __future__ import annotations

from erecap.report.formats import count, listing, plural, seconds
from erecap.report.load import Run
from erecap.report.page.course import RE_READ, Course, courses, successes
from erecap.report.page.timing import timed

_EARLY_LATE = "early and late: medians of the calls in the first and in the last third of that length"
BUSY = 0.25  # cores that other programs took beyond those that the run left free, from which on times are called rough


def course_sentences(run: Run) -> list[str]:
    """The time of re-reading, that of the other ways, and what they won and dropped; none without re-read calls."""
    found = courses(run)
    if not found:
        return []
    return [_re_read(found[0]), _others(found[0]), _won(run, found)]


def busy_sentence(run: Run) -> str | None:
    """A word of caution where other programs were busy beside the run; None where they were not, or nobody knows."""
    beside, cores, threads = (run.head.machine.get(key) for key in ("busy_beside", "cores", "threads"))
    if not isinstance(beside, int | float) or not isinstance(cores, int) or not isinstance(threads, int):
        return None
    if beside < max(0, cores - threads) + BUSY:
        return None
    return f"This machine was busy, times are rough: other programs took {beside:.1f} of its {cores} cores meanwhile."


def meanings(run: Run, course: Course) -> list[tuple[str, str]]:
    """The names of a figure's lines, and in words what each way reads and keeps."""
    return [(way.name, _meaning(run, course, way.name)) for way in course.ways]


def _meaning(run: Run, course: Course, way: str) -> str:
    if way == RE_READ:
        return f"reads everything again; measured on some calls of {course.mode}, at the same prompt on an empty cache"
    if not run.keeps_session(way):
        return "reads the whole prompt at each call"
    budget = run.kv_tokens(way)
    if budget is None:
        return "reads each token once and drops nothing"
    if isinstance(budget, str):
        alike = [mode for mode in run.modes if run.keeps_session(mode) and run.kv_tokens(mode) is None]
        same = f"; as long as it fits, the same as {alike[0]}" if alike else ""
        return f"reads each token once and drops nothing while the history fits the window{same}"
    return f"reads each token once, within a budget of {count(budget)} tokens"


def _re_read(course: Course) -> str:
    way, where = course.ways[0], f"in {course.suite}"
    early, late = way.early(course.longest), way.late(course.longest)
    history = f"{count(course.longest)} tokens"
    if early is None or late is None:
        last = way.points[-1]
        return (
            f"Reading everything again ({RE_READ}) took {seconds(last.seconds)} {where}, after a history of {history}."
        )
    if late <= early:
        return (
            f"Reading everything again ({RE_READ}) took no longer late {where} than early, {seconds(late)} after "
            f"{seconds(early)}, although the history grew to {history} ({_EARLY_LATE})."
        )
    return (
        f"Reading everything again ({RE_READ}) took {seconds(early)} early {where} and {seconds(late)} late, "
        f"{_times(late / early)} times as long, as the history grew to {history} ({_EARLY_LATE})."
    )


def _others(course: Course) -> str:
    again, longest = course.ways[0].late(course.longest), course.longest
    late = {way.name: way.late(longest) for way in course.ways[1:]}
    known = {name: value for name, value in late.items() if value is not None}
    short = [name for name, value in late.items() if value is None]
    if again is None or not known:
        return "No other way was measured at such a length of history."
    taken = [f"{name} {seconds(value)}" for name, value in known.items()]
    faster = {name: again / value for name, value in known.items() if value < again}
    slower = [name for name in known if name not in faster]
    text = f"Late in the same episode {_took(taken)}"
    if faster:
        ratios = listing([_times(ratio) for ratio in faster.values()])
        text += f": {ratios} times as fast as re-reading"
    if slower:
        text += f"; {listing(slower)} {'was' if len(slower) == 1 else 'were'} no faster{'' if faster else ' than that'}"
    if short:
        text += f"; {listing(short)} never had so long a history"
    return text + "."


def _took(taken: list[str]) -> str:
    """`reuse took 1.2 s, automatic 1.3 s and budget 0.9 s`."""
    name, _, rest = taken[0].partition(" ")
    return listing([f"{name} took {rest}", *taken[1:]])


def _won(run: Run, found: list[Course]) -> str:
    won = successes(run)
    calls = [call for call in timed(run.replans) if call.reread is not None]
    same = sum(call.reread.same for call in calls if call.reread is not None)
    re_read = f" ({RE_READ} planned the same in {same} of {len(calls)} calls)"
    names = [f"{mode} {wins} of {number}" + (re_read if mode == found[0].mode else "") for mode, wins, number in won]
    text = f"Episodes won: {listing(names)}"
    dropped = {
        mode: sum(call.drops for call in run.replans if call.mode == mode and call.prompt_tokens) for mode, _, _ in won
    }
    total = {mode: sum(call.mode == mode and call.prompt_tokens > 0 for call in run.replans) for mode in dropped}
    nothing = [mode for mode, number in dropped.items() if not number]
    told = [f"{listing(nothing)} dropped nothing"] if nothing else []
    told += [
        f"{mode} dropped history in {number} of {plural(total[mode], 'call')}"
        for mode, number in dropped.items()
        if number
    ]
    return f"{text}; {', '.join(told)}."


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
