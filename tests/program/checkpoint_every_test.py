#!/usr/bin/env python3
"""Training with gradient checkpointing is training without it: the same bits in every loss, weight
and average, in whole runs with one and with three micro batches a step, alone and on two ranks.

    python tests/program/checkpoint_every_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import trestle

BLOCKS = 3
EVERY = (0, 1, 2, 3)


def train(program: Path, data: Path, run_dir: Path, ranks: int, sets: list[str]) -> dict:
    """Losses and everything the last checkpoint holds."""
    values = [f"data.path={data}", "train.steps=4", f"model.num_layers={BLOCKS}",
              "model.dropout=0.2", "sample.pictures=1", *sets]
    trestle.checked(trestle.run(program, "train", trestle.TINY, "--run-dir", run_dir,
                                *trestle.settings(*values), ranks=ranks))
    return {"losses": trestle.losses(run_dir), **trestle.last_checkpoint(run_dir).tensors("")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    program = parser.parse_args().trestle.resolve()
    failures = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = trestle.make_data(scratch / "data")
        for dtype, micro_steps, ranks in (("float32", 1, 0), ("float32", 3, 0), ("float64", 3, 0),
                                          ("float32", 3, 2)):
            what = f"{dtype}, {micro_steps} micro steps, {max(ranks, 1)} ranks"
            micro_batch = 12 // max(ranks, 1) // micro_steps
            results = [train(program, data, scratch / f"{what}-{every}", ranks,
                             [f"model.dtype={dtype}", f"train.micro_batch={micro_batch}",
                              f"train.checkpoint_every={every}"]) for every in EVERY]
            for every, result in zip(EVERY[1:], results[1:]):
                different = [n for n in results[0] if not np.array_equal(results[0][n], result[n])]
                print(f"{what}: checkpoint_every {every}: {len(result) - len(different)} of "
                      f"{len(result)} tensors have the same bits")
                if different:
                    failures.append(f"{what}: checkpoint_every {every} changed {different[:5]}")
        refused = trestle.run(program, "validate", trestle.TINY, "--set", f"data.path={data}",
                              "--set", "train.checkpoint_every=9")
        if refused.returncode != 2 or "model.num_layers = 2" not in refused.stderr:
            failures.append(f"9 of 2 blocks: code {refused.returncode}, {refused.stderr}")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
