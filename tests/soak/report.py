"""What tools/soak has seen, as lines, tables and a page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable

FORMAT, VERSION = "trestle soak", 1
Event = dict  # what a round told of one disturbance: its kind, round, seconds and its own facts


def line(event: Event) -> str:
    """One disturbance in a sentence."""
    world, kind = event["world"], event["kind"]
    ranks = "1 rank" if world == 1 else f"{world} ranks"
    newest = "nothing was saved yet" if event.get("newest") is None else \
        f"checkpoint {event['newest']} whole"
    if kind == "kills":
        return (f"{ranks}: rank {event['rank']} killed, {event['moment']}, after step "
                f"{event['step']}; {newest}, {event['lost']} steps to repeat")
    if kind == "preempt":
        second = f", then SIG{event['second'][3:]} during the save" if event["second"] else ""
        return (f"{ranks}: {event['signal']}, {event['moment']}{second}; saved at step "
                f"{event['step']}")
    if kind == "resize":
        return (f"{ranks}: killed, step {event['step']} loaded by {event['other']} to the bit, "
                f"goes on")
    return (f"{ranks}: {event['free']:.2f} checkpoints of room left"
            f"{', and later all' if event['again'] else ''}; exit code {event['code']}, {newest}")


def table(title: str, counts: Counter, total: bool = False) -> list[str]:
    """Counts as Markdown, by name."""
    rows = [f"| {name} | {count} |" for name, count in sorted(counts.items())]
    if total:
        rows.append(f"| all | {sum(counts.values())} |")
    return [f"| {title} | count |", "|---|---:|", *rows, ""]


def crossed(title: str, events: Iterable[Event], row: Callable[[Event], str],
            column: Callable[[Event], str]) -> list[str]:
    """How many events have each row and column, as Markdown."""
    counts = Counter((row(e), column(e)) for e in events)
    rows, columns = (sorted({key[i] for key in counts}) for i in (0, 1))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for r in rows:
        lines.append(f"| {r} | {' | '.join(str(counts[r, c]) for c in columns)} |")
    return [*lines, ""]


def named_counts(events: Iterable[Event], names: Iterable[str]) -> Counter:
    """How often each named step of a save was hit; a step that never was counts 0."""
    counts = Counter({f"save-{name}": 0 for name in names})
    for event in events:
        if event["kind"] == "kills" and event["moment"].startswith("save-"):
            counts[event["moment"]] += 1
    return counts


def kill_tables(events: list[Event], names: list[str]) -> list[str]:
    lost = [e["lost"] for e in events]
    by_chance = [e for e in events if not e["moment"].startswith("save-")]
    lines = [f"Steps to repeat after a kill: median {statistics.median(lost):.0f}, at most "
             f"{max(lost)}.", ""]
    if by_chance:
        lines += table("killed while", Counter(e["moment"] for e in by_chance), total=True)
    named = named_counts(events, names)
    if named:
        lines += table("killed at the named step", named, total=True)
    return lines + crossed("world", events, lambda e: str(e["world"]),
                           lambda e: f"rank {e['rank']}")


def preempt_tables(events: list[Event]) -> list[str]:
    seconds = Counter(e["second"] for e in events if e["second"])
    lines = crossed("moment", events, lambda e: e["moment"], lambda e: e["signal"])
    if seconds:
        lines += table("second signal, during the save", seconds)
    return lines


def tables(events: list[Event], names: list[str]) -> list[str]:
    """What came off, kind by kind, as Markdown."""
    lines = []
    for kind in dict.fromkeys(e["kind"] for e in events):
        mine = [e for e in events if e["kind"] == kind]
        lines += [f"## {kind}: {len(mine)}", ""]
        if kind == "kills":
            lines += kill_tables(mine, names)
        elif kind == "preempt":
            lines += preempt_tables(mine)
        elif kind == "resize":
            lines += crossed("ranks that saved", mine, lambda e: str(e["world"]),
                             lambda e: f"{e['other']} load")
        else:
            lines += crossed("world", mine, lambda e: str(e["world"]),
                             lambda e: f"exit code {e['code']}")
    return lines


def page(result: dict) -> str:
    """The result as Markdown."""
    failures = result["failures"]
    asked = ", ".join(f"{count} {kind}" for kind, count in result["asked"].items())
    held = "every promise held" if not failures else f"{len(failures)} promises did not hold"
    lines = [
        "# Soak: kills, preemptions, resizes and full disks",
        "",
        f"Asked for {asked}: **{held}**, in {result['seconds'] / 60:.1f} min.",
        "",
        "A run of the small task `slow_fit` on 1 to 4 ranks is disturbed at random moments. After "
        "each disturbance the newest checkpoint must be there, whole (`inspect --verify`) and as "
        "new as was promised; the run is started again, and in the end its weights, averages, "
        "moments and losses must be those of a run that nothing disturbed, to the bit (after a "
        "resize: what is loaded to the bit, the end up to rounding).",
        "",
        "```",
        result["command"],
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result["facts"].items()),
        "",
        *tables(result["events"], result["named_steps"]),
    ]
    if failures:
        lines += ["## What did not hold", ""]
        for failure in failures:
            lines += [f"`{failure['command']}`", "", "```", failure["problem"], "```", ""]
    return "\n".join(lines).rstrip() + "\n"
