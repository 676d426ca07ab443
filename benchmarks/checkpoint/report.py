#!/usr/bin/env python3
"""Page of what benchmarks/checkpoint/run measured, from its .json.

    .venv/bin/python benchmarks/checkpoint/report.py benchmarks/results/checkpoint_X.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

FORMAT, VERSION = "trestle checkpoint benchmark", 2
EVERY = 500  # steps between saves, for the share of a run's time
GOALS = {"write": 0.9, "stall": 1.2, "share": 0.01, "load": 0.8, "faster": 1.0}
# Of a save's memory, beside what is staged: buffers of HDF5 and of the allocator.
SLACK_BYTES = 32 << 20


class Numbers:
    """Rounds of both sides; a ratio compares numbers of one round with each other."""

    def __init__(self, result: dict) -> None:
        self.rounds, self.warm_up = result["rounds"], result["warm_up"]

    def all(self, word: str, key: str) -> list[float]:
        return [r[word][key] for r in self.rounds]

    def median(self, word: str, key: str) -> float:
        return statistics.median(self.all(word, key))

    def grown_bytes(self, word: str) -> float | None:
        """The most memory that it took, in the round before the first too: then it is new. Trestle
        keeps for all of its saves what the first one took."""
        words = ("save", "async", "bare_async") if word in ("async", "bare_async") else (word,)
        grown = [r[w]["grown_bytes"] for r in (self.warm_up, *self.rounds) for w in words
                 if "grown_bytes" in r[w]]  # fmt: skip
        return max(grown, default=None)

    def ratios(self, of: Callable[[dict], float], over: Callable[[dict], float]) -> list[float]:
        return [of(r) / over(r) for r in self.rounds]

    def write(self, raw: str) -> list[float]:
        """The rate of a save over that of a raw write."""
        return self.ratios(lambda r: r[raw]["write_s"], lambda r: r["save"]["save_s"])

    def load(self) -> list[float]:
        """The rate of a load over that of a raw read."""
        return self.ratios(lambda r: r["read"]["read_s"], lambda r: r["load"]["load_s"])

    def stall(self, word: str) -> list[float]:
        """What the training waited, over a copy of the same bytes."""
        return self.ratios(lambda r: r[word]["waited_s"], lambda r: r["copy"]["copy_s"])

    def excess_s(self, word: str, plain: str) -> list[float]:
        """How much longer the steps took in which a save was made."""
        return [r[word]["steps_s"] - r[plain]["steps_s"] for r in self.rounds]

    def share(self, word: str, plain: str, steps: int) -> list[float]:
        """Of a run's time, with a save every EVERY steps."""
        return [(r[word]["steps_s"] - r[plain]["steps_s"]) / (EVERY * r[plain]["steps_s"] / steps)
                for r in self.rounds]  # fmt: skip

    def faster(self, word: str, key: str, *others: str) -> list[float]:
        """How many times as fast as the other side, which is given the best of its ways. What is
        less than a millisecond counts as one."""
        return self.ratios(lambda r: max(1e-3, min(r[o][key] for o in others)),
                           lambda r: max(1e-3, r[word][key]))  # fmt: skip


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def percent(values: list[float]) -> str:
    return spread([100 * value for value in values], digits=2) + " %"


def goal_rows(n: Numbers, result: dict) -> list[str]:
    rows = []

    def row(goal: str, text: str, reached: bool) -> None:
        rows.append(f"| {goal} | {text} | {'yes' if reached else 'no'} |")

    def at_least(goal: str, values: list[float], least: float) -> None:
        row(goal, spread(values), statistics.median(values) >= least)

    for raw, how in ("raw", ""), ("raw_direct", " past the page cache"):
        at_least(f"a save writes at 0.9 of a raw write with fsync{how}", n.write(raw),
                 GOALS["write"])  # fmt: skip
    for word, when in (("async", "behind forward and backward"),
                       ("bare_async", "with nothing to hide behind")):  # fmt: skip
        stall = n.stall(word)
        row(f"{when} it stalls training for at most 1.2 copies of the bytes",
            spread(stall), statistics.median(stall) <= GOALS["stall"])  # fmt: skip
    share = n.share("async", "plain", result["steps"])
    row(f"and costs less than 1 % of a run that saves every {EVERY} steps", percent(share),
        statistics.median(share) < GOALS["share"])  # fmt: skip
    at_least("a load reads at 0.8 of a raw read, cold", n.load(), GOALS["load"])
    at_least("save: faster than DCP's", n.faster("save", "save_s", "dcp_save"), GOALS["faster"])
    at_least("asynchronous save: training waits less than with DCP's",
             n.faster("async", "waited_s", "dcp_async", "dcp_cached"), GOALS["faster"])  # fmt: skip
    at_least("and is known to be on disk sooner",
             n.faster("async", "saved_s", "dcp_async", "dcp_cached"), GOALS["faster"])  # fmt: skip
    at_least("load: faster than DCP's, cold", n.faster("load", "load_s", "dcp_load"),
             GOALS["faster"])  # fmt: skip
    limit = result["staging_bytes"] + SLACK_BYTES
    grown = n.grown_bytes("limited_async")
    staging_mb, slack_mb = result["staging_bytes"] >> 20, SLACK_BYTES >> 20
    row(f"a save takes no more memory than staging_bytes = {staging_mb} MiB, and {slack_mb} MiB",
        f"{grown / 2**20:.0f} MiB", grown <= limit)  # fmt: skip
    return rows


# word, its label, and the key of its seconds
TIMES = (
    ("raw", "raw write, fsync", "write_s"),
    ("raw_direct", "raw write past the page cache (O_DIRECT), fsync", "write_s"),
    ("save", "save", "save_s"),
    ("dcp_save", "DCP: save", "save_s"),
    ("read", "raw read, cold", "read_s"),
    ("load", "load, cold", "load_s"),
    ("dcp_load", "DCP: load, cold", "load_s"),
)
STEPS = (
    ("bare_async", "bare", "Trestle, update alone"),
    ("async", "plain", "Trestle"),
    ("limited_async", "plain", "Trestle, limited staging"),
    ("dcp_async", "dcp_plain", "DCP, async_save as it comes"),
    ("dcp_cached", "dcp_plain", "DCP, into memory that is kept"),
)


def page(result: dict) -> str:
    """The result as Markdown."""
    n = Numbers(result)
    size = result["bytes"]
    lines = [
        "# Checkpoints: what saving and loading cost",
        "",
        f"{size / 2**20:,.0f} MiB of state (master, two moments, one average, fp32) in "
        f"{result['tensors']} tensors of each kind, divided over {result['ranks']} ranks by rows, "
        f"{result['threads']} thread(s) a rank, on {result['file_system']}. The other side is "
        "`torch.distributed.checkpoint` (DCP) with the same tensors as DTensors over gloo.",
        "",
        f"Medians of {len(n.rounds)} rounds in turn; in brackets the least and the largest round. "
        f"The page cache was emptied before each load and read by {result['cold']}.",
        "",
        "```",
        result["command"],
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result["facts"].items()),
        "",
        "| goal | measured | reached |",
        "|---|---:|---|",
        *goal_rows(n, result),
        "",
        "## Reading and writing",
        "",
        "| | seconds | MB/s | memory it took, MiB a rank |",
        "|---|---:|---:|---:|",
    ]
    for word, label, key in TIMES:
        grown_bytes = n.grown_bytes(word)
        grown = "-" if grown_bytes is None else f"{grown_bytes / 2**20:.0f}"
        lines.append(f"| {label} | {spread(n.all(word, key))} | "
                     f"{1e-6 * size / n.median(word, key):.0f} | {grown} |")  # fmt: skip
    lines += [
        "",
        "## Saving while training goes on",
        "",
        f"{result['steps']} steps of {result['products']} products of 512 x 512 matrices, which "
        "stand for forward and backward, and an update of all the state in place; a save begins "
        "before the first. Waited: until training may change the state. Longer: what the steps "
        "took more than without a save, which on as many ranks as cores is also what the writing "
        "thread computes; there the thread that copies and the update share a core, too, so "
        "that with nothing to hide behind a wait lasts longer than the copy alone. On disk: "
        "until a rank knows that all ranks' parts are; Trestle's ranks tell each other once a "
        "step.",
        "",
        "A copy of the bytes within memory takes "
        f"{spread(n.all('copy', 'copy_s'), digits=3)} s; a step without a save "
        f"{n.median('plain', 'steps_s') / result['steps']:.2f} s (DCP's side "
        f"{n.median('dcp_plain', 'steps_s') / result['steps']:.2f} s).",
        "",
        f"| | waited, s | longer, s | share at every = {EVERY} | on disk after, s | memory, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for word, plain, label in STEPS:
        share = percent(n.share(word, plain, result["steps"])) if plain != "bare" else "-"
        lines.append(f"| {label} | {spread(n.all(word, 'waited_s'), digits=3)} | "
                     f"{spread(n.excess_s(word, plain))} | {share} | "
                     f"{spread(n.all(word, 'saved_s'))} | "
                     f"{n.grown_bytes(word) / 2**20:.0f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, metavar="FILE.json", help="written by run")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    if (result.get("format"), result.get("version")) != (FORMAT, VERSION):
        sys.exit(f"{arguments.result} is no result of version {VERSION} (run writes them).")
    arguments.result.with_suffix(".md").write_text(page(result))
    print(f"wrote {arguments.result.with_suffix('.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
