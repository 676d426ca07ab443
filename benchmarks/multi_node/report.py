#!/usr/bin/env python3
"""Page and picture of what benchmarks/multi_node/run measured, from its .json.

    .venv/bin/python benchmarks/multi_node/report.py benchmarks/results/multi_node_X.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

FORMAT, VERSION = "trestle multi_node", 1
SIDES = ("trestle", "ddp")


class CaseNumbers:
    """One case's medians over its rounds; pairs of one round are compared with each other."""

    def __init__(self, case: dict) -> None:
        self.case = case
        self.hosts, self.ranks, self.rate = case["hosts"], case["ranks"], case["rate"]
        self.shaped = self.rate != "none"

    def rounds(self, side: str, key: str) -> list[float]:
        return [reply[key] for reply in self.case["rounds"][side]]

    def median(self, side: str, key: str) -> float:
        return statistics.median(self.rounds(side, key))

    def part(self, side: str, key: str) -> float:
        return statistics.median(reply[f"{key}_ms"] for reply in self.case["parts"][side])

    def compute(self, side: str) -> float:
        return sum(self.part(side, key) for key in ("forward", "backward", "optimizer"))

    def speedup(self) -> float:
        return self.median("trestle", "samples_per_s") / self.median("ddp", "samples_per_s")

    def speedups(self) -> list[float]:
        paired = zip(*(self.rounds(side, "samples_per_s") for side in SIDES), strict=True)
        return [a / b for a, b in paired]

    def bound_pieces(self) -> dict[str, float]:
        """What the bound is the sum of, in ms."""

        def part(key: str) -> float:
            return self.part("trestle", key)

        return {
            "backward or reduce-scatter": max(part("backward"), part("reduce_scatter")),
            "optimizer": part("optimizer"),
            "forward or all-gather": max(part("forward"), part("all_gather")),
        }

    def bound(self) -> float:
        return sum(self.bound_pieces().values())

    def over_bound(self) -> list[float]:
        """Each round's step over the case's bound."""
        return [ms / self.bound() for ms in self.rounds("trestle", "step_ms")]

    def communication(self) -> float:
        return self.part("trestle", "reduce_scatter") + self.part("trestle", "all_gather")

    def ratio(self) -> float:
        """Communication over compute, both alone."""
        return self.communication() / self.compute("trestle")

    def sizes_per_host(self, side: str) -> float:
        """What a host sends for one step, as a multiple of the gradients' size in fp32."""
        sent = self.median(side, "sent_bytes_per_step")
        return sent / self.hosts / (4 * self.case["parameters"])

    def label(self) -> str:
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        link = "" if self.hosts == 1 else ", unshaped" if not self.shaped else f", {self.rate}"
        return f"N={self.ranks}, {hosts}{link}"


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def efficiency(case: CaseNumbers, alone: CaseNumbers | None, side: str) -> str:
    if alone is None:
        return "-"
    speed = case.median(side, "samples_per_s")
    return f"{100 * speed / (case.ranks * alone.median(side, 'samples_per_s')):.0f} %"


def goals(cases: list[CaseNumbers], cores: int, threads: int) -> list[str]:
    """A row for each case that a goal is about."""
    rows = []

    def row(goal: str, case: CaseNumbers, value: float, reached: bool) -> None:
        rows.append(f"| {goal} | {case.label()} | {value:.2f} | {'yes' if reached else 'no'} |")

    for case in cases:
        if case.shaped and case.ranks * threads <= cores:
            value = statistics.median(case.over_bound())
            row("step at most 1.1 of its bound", case, value, value <= 1.1)
    for case in cases:
        faster = case.speedup()
        if case.ranks == 1:
            row("as fast as PyTorch alone", case, faster, faster >= 1)
        if case.hosts == 2 and 1 <= case.ratio() <= 2:
            row("1.1 times DDP, communication 1 to 2 times compute", case, faster, faster >= 1.1)
        if case.hosts == 2 and case.ranks == 4 and case.ratio() >= 2:
            row("1.3 times DDP, communication over 2 times compute", case, faster, faster >= 1.3)
    return rows or ["| no case that a goal is about | | | |"]


def page(result: dict, picture: str) -> str:
    """The result as Markdown."""
    cases = [CaseNumbers(case) for case in result["cases"]]
    alone = next((case for case in cases if case.ranks == 1), None)
    model = result["workload"]["model"]
    width = model["num_attention_heads"] * model["attention_head_dim"]
    tokens = result["workload"]["latent_height"] * result["workload"]["latent_width"]
    rounds = len(result["cases"][0]["rounds"]["trestle"])
    buckets = result["bucket_cap_mb"]
    oversubscribed = [c.label() for c in cases if c.ranks * result["threads"] > result["cores"]]
    lines = [
        "# Training over ranks and hosts: Trestle and PyTorch DDP",
        "",
        f"Ranks on {result['launcher']}. Sana with {model['num_layers']} layers of width {width}, "
        f"{cases[0].case['parameters']:,.0f} parameters, {tokens} image tokens; "
        f"{result['batch']} samples and {result['threads']} thread(s) a rank; gradients travel in "
        f"{result['wire']} on both sides"
        + (f"; Trestle with {', '.join(result['set'])}" if result["set"] else "")
        + ". The other side is diffusers' model under DistributedDataParallel over gloo (its "
        f"buckets {f'of {buckets:g} MB' if buckets else 'as large as Trestle makes its own'}, as "
        "views, static graph; its bf16 hook where gradients travel in bf16), AdamW(fused=True), "
        "clipping and EMAModel(foreach=True); without DDP on one rank.",
        "",
        f"Medians of {rounds} rounds in turn; in brackets the least and the largest round.",
        *(
            [f"More ranks than the {result['cores']} cores: {'; '.join(oversubscribed)}."]
            if oversubscribed and "Slurm" not in result["launcher"]
            else []
        ),
        "",
        f"![samples a second, and the step beside its bound]({picture})",
        "",
        "```",
        result["command"],
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in result["facts"].items()),
        "",
        "## Speed",
        "",
        "Communication is reduce-scatter and all-gather alone, compute is forward, backward and "
        "optimizer alone, both Trestle's. Efficiency is samples/s over N times those of one rank. "
        "Sent: bytes that a host puts on the link for a step, in sizes of all fp32 gradients.",
        "",
        "| case | communication / compute | Trestle, samples/s | DDP, samples/s | ratio | "
        "efficiency | DDP's | sent | DDP's |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases:
        sent = [f"{case.sizes_per_host(side):.2f}" if case.hosts > 1 else "-" for side in SIDES]
        speeds = [f"{case.median(side, 'samples_per_s'):.2f}" for side in SIDES]
        efficiencies = [efficiency(case, alone, side) for side in SIDES]
        cells = [case.label(), f"{case.ratio():.1f}" if case.ranks > 1 else "-", *speeds]
        cells += [spread(case.speedups()), *efficiencies, *sent]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## The step beside its bound",
        "",
        "The bound is max(backward, reduce-scatter) + optimizer + max(forward, all-gather), of "
        "parts that were measured alone in the same run.",
        "",
        "| case | bound, ms | step, ms | step / bound | DDP's step, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in cases:
        lines.append(
            f"| {case.label()} | {case.bound():.1f} | {case.median('trestle', 'step_ms'):.1f} | "
            f"{spread(case.over_bound())} | {case.median('ddp', 'step_ms'):.1f} |"
        )
    lines += [
        "",
        "## Parts alone, ms (the slowest rank's)",
        "",
        "| case | forward | backward | optimizer | reduce-scatter | all-gather | DDP: forward | "
        "backward | optimizer | all-reduce |",
        "|---|" + "---:|" * 9,
    ]
    own = ("forward", "backward", "optimizer", "reduce_scatter", "all_gather")
    theirs = ("forward", "backward", "optimizer", "all_reduce")
    for case in cases:
        cells = [f"{case.part('trestle', key):.1f}" for key in own]
        cells += [f"{case.part('ddp', key):.1f}" for key in theirs]
        lines.append(f"| {case.label()} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Goals",
        "",
        "| goal | case | measured | reached |",
        "|---|---|---:|---|",
        *goals(cases, result["cores"] * max(1, result.get("nodes", 1)), result["threads"]),
        "",
        "Losses (Trestle, DDP; means of the last round, each with its own random data, which only "
        "show that both do the same kind of work): "
        + "; ".join(
            f"{case.label()}: " + ", ".join(f"{case.rounds(s, 'loss')[-1]:.3f}" for s in SIDES)
            for case in cases
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def draw(result: dict, out: Path) -> None:
    """Left the speeds, right the step over its bound and what the bound is made of."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [CaseNumbers(case) for case in result["cases"]]
    places = range(len(cases))
    figure, (speeds, steps) = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True)
    for offset, side, name in ((-0.2, "trestle", "Trestle"), (0.2, "ddp", "PyTorch DDP")):
        values = [case.median(side, "samples_per_s") for case in cases]
        ends = [
            [value - min(case.rounds(side, "samples_per_s")) for case, value in zip(cases, values)],
            [max(case.rounds(side, "samples_per_s")) - value for case, value in zip(cases, values)],
        ]
        rows = [place + offset for place in places]
        speeds.barh(rows, values, 0.38, xerr=ends, label=name, error_kw={"linewidth": 0.8})
    begins = [0.0] * len(cases)
    for number, piece in enumerate(cases[0].bound_pieces()):
        widths = [case.bound_pieces()[piece] / case.bound() for case in cases]
        steps.barh(places, widths, 0.7, left=begins, color=f"C{number + 4}", alpha=0.5, label=piece)
        begins = [begin + width for begin, width in zip(begins, widths)]
    for side, name, marker in (("trestle", "Trestle's step", "D"), ("ddp", "DDP's step", "s")):
        values = [case.median(side, "step_ms") / case.bound() for case in cases]
        steps.plot(values, places, marker, color="C0" if side == "trestle" else "C1", label=name)
    speeds.set_yticks(list(places), [case.label() for case in cases])
    speeds.invert_yaxis()
    speeds.set_xlabel("samples a second (median; least and largest round)")
    steps.set_xlabel("times the bound of Trestle's step")
    for axes in (speeds, steps):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.legend(fontsize="small", ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def write(result: dict, page_file: Path) -> str:
    """Writes the picture and the page beside each other; returns the page."""
    picture = page_file.with_suffix(".png")
    draw(result, picture)
    text = page(result, picture.name)
    page_file.write_text(text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, metavar="FILE.json", help="written by run")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    if (result.get("format"), result.get("version")) != (FORMAT, VERSION):
        sys.exit(f"{arguments.result} is no result of version {VERSION} (run writes them).")
    write(result, arguments.result.with_suffix(".md"))
    print(f"wrote {arguments.result.with_suffix('.md')} and its picture")
    return 0


if __name__ == "__main__":
    sys.exit(main())
