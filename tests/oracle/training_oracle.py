#!/usr/bin/env python3
"""Judges whole training runs by PyTorch and diffusers: the same weights, data and draws.

A run of tests/recipes/tiny.toml is exported (export_draws: the initial weights, and pictures, text,
times and noise of every step), trained by Trestle on 1, 2 and 4 ranks with each of dist.shard's
modes, and by reference_training.py in 1 process and under DDP on 2 and 4, with one and with three
micro batches a step. Clipping, warm-up, cosine, weight decay and EMA are on, and the global batch
divides neither by the ranks nor by the micro batch. Micro batches have the same shapes on both
sides, and everything has one thread.

Differences are relative: of the loss and the gradient norm step by step, of tensors in the L2 norm
over all of them after step 20. With qk_norm "none" the true gradient of attn2.to_k.bias is zero and
Adam turns its rounding into steps; these biases are reported apart.

    python tests/oracle/training_oracle.py --trestle build/release/launch/trestle \\
        --export-draws build/release/tests/export_draws
    python tests/oracle/training_oracle.py ... --self-check     proves that it can fail
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import replay
from reference_training import Settings, Tensors, Trained, train, train_ddp

sys.path.append(str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # what the tests of the built program share

COMPARED_AT = 20  # the step after which tensors are compared
STEPS = {"float32": 50, "float64": COMPARED_AT}
GLOBAL_BATCH = 11
QK_NORMS = ("rms_norm_across_heads", "none")
OPTIMIZER = {
    "learning_rate": 1e-3,
    "lr_warmup_steps": 4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
}
RUN = {
    "train.global_batch": GLOBAL_BATCH,
    "train.max_grad_norm": 0.3,
    "optim.lr_scheduler": "cosine",
    "ema.decay": 0.5,  # where the ramp of the averages ends after 9 steps
    "checkpoint.every": COMPARED_AT,
    "sample.pictures": 1,
    "sample.steps": 1,
    **{f"optim.{name}": value for name, value in OPTIMIZER.items()},
}

# Largest differences. Moments and norms are made of gradients and have the bound of gradients.
BOUNDS = {
    "float32": {
        "loss to step 5": 1e-6,
        f"to step {COMPARED_AT}": 1e-5,
        "to the end": 1e-5,
        "gradient norm": 1e-4,
        "learning rate": 1e-12,
        "weights": 5e-5,
        "ema": 5e-5,
        "exp_avg": 1e-4,
        "exp_avg_sq": 1e-4,
    },
}
BOUNDS["float64"] = {name: min(bound, 1e-9) for name, bound in BOUNDS["float32"].items()}


@dataclass(frozen=True)
class Layout:
    """Over how many ranks, and in how many micro batches on the one that has most."""

    ranks: int
    accumulation: int
    modes: tuple[str, ...] = ("optimizer",)  # of dist.shard: Trestle's alone

    @property
    def micro_batch(self) -> int:
        largest_share = math.ceil(GLOBAL_BATCH / self.ranks)
        return math.ceil(largest_share / self.accumulation)

    def __str__(self) -> str:
        return f"{self.ranks} ranks, {self.accumulation} micro batches"


MODES = ("none", "optimizer", "gradients")
ALONE = (Layout(1, 1), Layout(1, 3))
SHARDED = (Layout(2, 1, MODES), Layout(2, 3, MODES), Layout(4, 1, MODES), Layout(4, 3, MODES))
# What shards add is the order of sums, and that is tried in the dtype that shows it; without a
# qk-norm there is nothing new but the biases.
LAYOUTS = {
    ("float32", QK_NORMS[0]): (*ALONE, *SHARDED),
    ("float64", QK_NORMS[0]): (Layout(1, 3), Layout(2, 3, MODES), Layout(4, 1), Layout(4, 3)),
    ("float32", QK_NORMS[1]): (Layout(1, 3), Layout(2, 3)),
    ("float64", QK_NORMS[1]): (Layout(2, 3),),
}


@dataclass(frozen=True)
class Case:
    """One run, as both sides are told it; layouts differ in the size of the micro batch."""

    name: str
    layouts: tuple[Layout, ...]
    sets: list[str]  # for the programs
    settings: Settings  # for the reference

    def settings_of(self, layout: Layout) -> Settings:
        return replace(self.settings, micro_batch=layout.micro_batch)


def make_case(dtype: str, qk_norm: str, data: Path, exporter: Path, scratch: Path) -> Case:
    """Writes what the run draws into a folder of its own."""
    steps = STEPS[dtype]
    own = {"train.steps": steps, "model.dtype": dtype, "model.qk_norm": qk_norm, "data.path": data}
    run = {**RUN, **own}
    sets = [f"{key}={value}" for key, value in run.items()]
    exported = scratch / f"{dtype}-{qk_norm}"
    exported.mkdir()
    trestle.checked(replay.run_program(exporter, [trestle.TINY, exported, *sets]))

    recipe = tomllib.loads(trestle.TINY.read_text())
    model = {**recipe["model"], "qk_norm": None if qk_norm == "none" else qk_norm}
    del model["dtype"]
    settings = Settings(
        exported=exported,
        model=model,
        dtype=dtype,
        codec_factor=recipe["task"]["codec_factor"],
        noise_scale=recipe["task"]["noise_scale"],
        steps=steps,
        compared_at=COMPARED_AT,
        global_batch=GLOBAL_BATCH,
        micro_batch=GLOBAL_BATCH,
        max_grad_norm=RUN["train.max_grad_norm"],
        ema_decay=RUN["ema.decay"],
        **OPTIMIZER,
    )
    return Case(f"{dtype} qk_norm {qk_norm}", LAYOUTS[dtype, qk_norm], sets, settings)


def run_trestle(program: Path, case: Case, layout: Layout, mode: str) -> Trained:
    """Trains, and reads what the run left: metrics.jsonl and the checkpoint of step 20."""
    name = f"run-{layout.ranks}-{layout.accumulation}-{mode}"
    run_dir = case.settings.exported / name
    trestle.checked(trestle.run(
        program, "train", trestle.TINY, "--run-dir", run_dir,
        *trestle.settings(*case.sets, f"train.micro_batch={layout.micro_batch}",
                          f"dist.shard={mode}"),
        ranks=layout.ranks))
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    checkpoint = trestle.Checkpoint(run_dir / "checkpoints" / f"step-{COMPARED_AT:08}")

    def tensors(prefix: str, suffix: str = "") -> Tensors:
        return {
            name.removeprefix(prefix).removesuffix(suffix): torch.from_numpy(value)
            for name, value in checkpoint.tensors(prefix).items()
            if name.endswith(suffix)
        }

    return Trained(
        loss=[line["loss"] for line in lines],
        grad_norm=[line["grad_norm"] for line in lines],
        lr=[line["lr"] for line in lines],
        weights=tensors("model/"),
        ema=tensors("ema/"),
        exp_avg=tensors("optim/", "/exp_avg"),
        exp_avg_sq=tensors("optim/", "/exp_avg_sq"),
    )


def split_zero_gradients(tensors: Tensors, settings: Settings) -> tuple[Tensors, Tensors]:
    """Those with a gradient, and those without: a key bias shifts all scores of a query alike,
    unless there is a qk-norm."""
    zero = {
        name: tensor
        for name, tensor in tensors.items()
        if settings.model["qk_norm"] is None and name.endswith("attn2.to_k.bias")
    }
    return {name: tensor for name, tensor in tensors.items() if name not in zero}, zero


def difference(ours: Tensors, theirs: Tensors) -> float:
    return trestle.distance(
        {name: tensor.numpy() for name, tensor in ours.items()},
        {name: tensor.numpy() for name, tensor in theirs.items()},
    )


def compare(ours: Trained, theirs: Trained, settings: Settings) -> dict[str, float]:
    """Every difference that has a bound, and one that has none."""
    loss, grad_norm = (
        np.abs(np.array(mine) / np.array(right) - 1)
        for mine, right in ((ours.loss, theirs.loss), (ours.grad_norm, theirs.grad_norm))
    )
    lr = np.abs(np.array(ours.lr) - np.array(theirs.lr)).max() / max(theirs.lr)
    figures = {
        "loss to step 5": loss[:5].max(),
        f"to step {COMPARED_AT}": loss[:COMPARED_AT].max(),
        "to the end": loss.max(),
        "gradient norm": grad_norm[:COMPARED_AT].max(),
        "learning rate": lr,
    }
    for name in ("weights", "ema", "exp_avg", "exp_avg_sq"):
        mine, my_zero = split_zero_gradients(getattr(ours, name), settings)
        right, right_zero = split_zero_gradients(getattr(theirs, name), settings)
        figures[name] = difference(mine, right)
        if name == "weights" and right_zero:
            figures["zero-gradient biases"] = difference(my_zero, right_zero)
    return figures


def out_of_bounds(figures: Mapping[str, float], dtype: str) -> list[str]:
    """Written so that a NaN, which compares false with everything, is out of bounds."""
    return [
        f"{name} {figures[name]:.2e} (bound {bound:g})"
        for name, bound in BOUNDS[dtype].items()
        if not figures[name] <= bound
    ]


def told(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:.1e}" for name, figure in figures.items())


def told_with_bounds(figures: Mapping[str, float], dtype: str) -> str:
    bounds = {name: f"bound {bound:g}" for name, bound in BOUNDS[dtype].items()}
    return ", ".join(
        f"{name} {figure:.2e} ({bounds.get(name, 'no bound')})" for name, figure in figures.items()
    )


def references(cases: list[Case], scratch: Path) -> dict[tuple[str, Layout], Trained]:
    """Each case in each of its layouts, trained once."""
    trained = {}
    for ranks in sorted({layout.ranks for case in cases for layout in case.layouts}):
        wanted = {
            f"{case.name} {layout}": (case, layout)
            for case in cases
            for layout in case.layouts
            if layout.ranks == ranks
        }
        settings = {name: case.settings_of(layout) for name, (case, layout) in wanted.items()}
        if ranks == 1:
            results = {name: train(alone) for name, alone in settings.items()}
        else:
            results = train_ddp(settings, ranks, scratch)
        for name, (case, layout) in wanted.items():
            trained[case.name, layout] = results[name]
    return trained


def run_cases(program: Path, cases: list[Case], scratch: Path) -> int:
    """Compares every case in all its layouts and modes; returns the number that failed."""
    theirs = references(cases, scratch)
    failed = 0
    worst: dict[str, dict[str, float]] = {dtype: {} for dtype in BOUNDS}
    for case in cases:
        settings = case.settings
        for layout in case.layouts:
            reference = theirs[case.name, layout]
            norms = reference.grad_norm[:COMPARED_AT]
            clipped = sum(norm > settings.max_grad_norm for norm in norms)
            if not COMPARED_AT // 2 < clipped < COMPARED_AT:  # so that both turns are taken
                failed += 1
                print(f"FAIL {case.name}: {clipped} of {COMPARED_AT} steps were clipped")
            for mode in layout.modes:
                figures = compare(run_trestle(program, case, layout, mode), reference, settings)
                problems = out_of_bounds(figures, settings.dtype)
                failed += bool(problems)
                mark = "FAIL" if problems else "ok  "
                print(f"{mark} {case.name}, {layout}, shard {mode}: {told(figures)}", flush=True)
                for problem in problems:
                    print(f"    {problem}")
                seen = worst[settings.dtype]
                for name, figure in figures.items():
                    seen[name] = max(seen.get(name, 0.0), figure, key=replay.nan_is_worst)
    for dtype, seen in worst.items():
        print(f"worst {dtype}: {told_with_bounds(seen, dtype)}")
    return failed


def self_check(program: Path, case: Case) -> int:
    """Trains the reference a little differently and expects to notice; returns what was not."""
    layout = Layout(1, 3)
    settings = case.settings_of(layout)
    accepted = {
        "nothing": settings,
        "other micro batches": replace(settings, micro_batch=3),
    }
    noticed = {
        "no clipping": replace(settings, max_grad_norm=1e9),
        "another noise scale": replace(settings, noise_scale=settings.noise_scale * (1 + 1e-6)),
        "another peak rate": replace(settings, learning_rate=settings.learning_rate * (1 + 1e-6)),
        "a longer warm-up": replace(settings, lr_warmup_steps=settings.lr_warmup_steps + 1),
        "another beta1": replace(settings, adam_beta1=0.9001),
        "another beta2": replace(settings, adam_beta2=0.9901),
        "another epsilon": replace(settings, adam_epsilon=2e-8),
        "no weight decay": replace(settings, weight_decay=0.0),
        "another decay of the EMA": replace(settings, ema_decay=0.501),
        "another epsilon of the norms": replace(
            settings, model={**settings.model, "norm_eps": 2e-6}
        ),
    }
    ours = run_trestle(program, case, layout, "optimizer")
    failed = 0
    for name, changed in {**accepted, **noticed}.items():
        problems = out_of_bounds(compare(ours, train(changed), settings), settings.dtype)
        fine = bool(problems) == (name in noticed)
        failed += not fine
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {'; '.join(problems) or 'passes'}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trestle", type=Path, required=True, metavar="PROGRAM", help="the built program")
    add("--export-draws", type=Path, required=True, metavar="PROGRAM", help="built with the tests")
    add("--self-check", action="store_true", help="spoil the reference and expect to notice")
    arguments = parser.parse_args()
    program, exporter = arguments.trestle.resolve(), arguments.export_draws.resolve()

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's own name need not resolve
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="training_oracle_") as folder:
        scratch = Path(folder)
        data = trestle.make_data(scratch / "data", heldout=2)
        if arguments.self_check:
            case = make_case("float64", QK_NORMS[0], data, exporter, scratch)
            failed = self_check(program, case)
        else:
            cases = [make_case(*key, data, exporter, scratch) for key in LAYOUTS]
            failed = run_cases(program, cases, scratch)
    verdict = f"FAILED: {failed}" if failed else "all passed"
    print(f"{verdict} in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
