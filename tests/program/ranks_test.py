#!/usr/bin/env python3
"""1 == 2 == 3 == 4 ranks after 20 steps: weights, losses, each rank's share of work and checkpoint.

Global batch 12, micro batch 1, so every rank computes the same shapes. Bounds: fp64 weights 1e-9,
fp32 weights 5e-5, fp32 losses 1e-6 up to step 5 and 1e-5 up to step 20 (relative, weights in global
L2). Biases whose true gradient is zero are reported apart: Adam turns their rounding into steps.

    python tests/program/ranks_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import trestle

WEIGHT_BOUND = {"float64": 1e-9, "float32": 5e-5}
LOSS_BOUNDS = {"float64": (1e-9, 1e-9), "float32": (1e-6, 1e-5)}


def zero_gradient(name: str) -> bool:
    """Without qk-norm a key bias shifts all scores of a query alike; with it nothing is zero."""
    return name.endswith("attn2.to_k.bias")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    program = parser.parse_args().trestle.resolve()
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        data = trestle.make_data(Path(scratch) / "data")
        for dtype in ("float64", "float32"):
            for qk_norm in ("rms_norm_across_heads", "none"):
                failures += compare(program, Path(scratch), data, dtype, qk_norm)
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


def compare(program: Path, scratch: Path, data: Path, dtype: str, qk_norm: str) -> list[str]:
    failures: list[str] = []

    def expect(condition: bool, text: str) -> None:
        if not condition:
            failures.append(f"{dtype}, qk_norm {qk_norm}: {text}")

    reference: dict[str, np.ndarray] = {}
    reference_losses = np.zeros(0)
    for ranks in (1, 2, 3, 4):
        run_dir = scratch / f"{dtype}-{qk_norm}-{ranks}"
        trestle.checked(trestle.run(
            program, "train", trestle.TINY, "--run-dir", run_dir, "--set", f"data.path={data}",
            "--set", f"model.dtype={dtype}", "--set", f"model.qk_norm={qk_norm}", ranks=ranks))
        checkpoint = trestle.last_checkpoint(run_dir)
        weights = checkpoint.tensors("model/")
        losses = trestle.losses(run_dir)

        sizes = checkpoint.file_bytes()
        payload = [sum(p["bytes"] for t in checkpoint.manifest["tensors"].values()
                       for p in t["pieces"] if p["file"] == f["name"])
                   for f in checkpoint.manifest["files"]]
        expect(len(sizes) == ranks, f"{len(sizes)} files from {ranks} ranks")
        # Shards are cut in blocks of a bucket, and this model's buckets are a few blocks.
        expect(max(payload) <= 1.5 * sum(payload) / ranks,
               f"shares of the checkpoint are uneven: {payload}")
        log = (run_dir / "logs" / "rank-00000.log").read_text()
        share = f"= {ranks} ranks x {12 // ranks} micro steps"
        expect(share in log, "rank 0 did not log its share")
        for rank in range(ranks):
            expect((run_dir / "logs" / f"rank-{rank:05}.log").exists(), f"rank {rank} has no log")

        if ranks == 1:
            reference, reference_losses = weights, losses
            expect(losses[-1] < losses[0], "the loss did not fall")
            continue
        true_gradients = {n for n in weights if qk_norm != "none" or not zero_gradient(n)}
        error = trestle.distance({n: weights[n] for n in true_gradients},
                                 {n: reference[n] for n in true_gradients})
        relative = np.abs(losses - reference_losses) / np.abs(reference_losses)
        early, late = LOSS_BOUNDS[dtype]
        apart = ""
        if len(true_gradients) < len(weights):
            rest = weights.keys() - true_gradients
            ours, theirs = ({n: side[n] for n in rest} for side in (weights, reference))
            biases = trestle.distance(ours, theirs)
            apart = f", zero-gradient biases {biases:.1e}"
        print(f"{dtype} qk_norm {qk_norm}: {ranks} ranks against 1: weights {error:.1e}, losses "
              f"{relative[:5].max():.1e} to step 5, {relative.max():.1e} to step 20{apart}")
        expect(error <= WEIGHT_BOUND[dtype], f"{ranks} ranks: weights differ by {error:.2e}")
        for name, worst, bound in (("5", relative[:5].max(), early), ("20", relative.max(), late)):
            expect(worst <= bound, f"{ranks} ranks: losses differ by {worst:.2e} to step {name}")
    return failures


if __name__ == "__main__":
    sys.exit(main())
