#!/usr/bin/env python3
"""What is sharded over the ranks (dist.shard) changes no number, and no checkpoint that another
mode could not go on from.

    python tests/program/shard_modes_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import shutil
import tempfile
import unittest
from pathlib import Path

import numpy as np

import trestle

PROGRAM = Path("trestle")
MODES = ("none", "optimizer", "gradients")
STEPS, SAVED = 6, 3
RANKS = 2
COMMON = (f"train.steps={STEPS}", f"checkpoint.every={SAVED}", "sample.pictures=1",
          "sample.steps=1", "log.tensorboard=false")
# Global batch 12 on two ranks.
ONE_MICRO_BATCH = ("train.micro_batch=6",)
THREE_MICRO_BATCHES = ("train.micro_batch=2", "model.dtype=float64")
ROUNDING = 1e-9  # between orders of summation in float64


def everything(run_dir: Path) -> dict[str, np.ndarray]:
    """All that the last checkpoint holds, and the loss of each step."""
    return {**trestle.last_checkpoint(run_dir).tensors(""), "losses": trestle.losses(run_dir)}


class ShardModes(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-shard-modes-"))
        cls.addClassCleanup(shutil.rmtree, cls.scratch)
        cls.data = trestle.make_data(cls.scratch / "data", heldout=2)
        cls.whole = {mode: cls.train(cls.scratch / mode, mode, *THREE_MICRO_BATCHES)[0]
                     for mode in MODES}

    @classmethod
    def train(cls, run_dir: Path, mode: str, *sets: str, ranks: int = RANKS) -> tuple[Path, str]:
        """Where the run is, and what it said."""
        result = trestle.checked(trestle.run(
            PROGRAM, "train", trestle.TINY, "--run-dir", run_dir, *trestle.settings(
                f"data.path={cls.data}", f"dist.shard={mode}", *COMMON, *sets), ranks=ranks))
        return run_dir, result.stderr

    def stopped_in_the_middle(self, mode: str, name: str) -> Path:
        """A copy of the whole run as it was when it had saved step 3 and gone on a little."""
        run_dir = self.scratch / name
        shutil.copytree(self.whole[mode], run_dir)
        shutil.rmtree(run_dir / "checkpoints" / f"step-{STEPS:08}")
        (run_dir / "summary.json").unlink()
        return run_dir

    def expect_equal_bits(self, a: Path, b: Path) -> None:
        ours, theirs = everything(a), everything(b)
        self.assertEqual(ours.keys(), theirs.keys())
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)

    def expect_equal_to_rounding(self, a: Path, b: Path) -> None:
        ours, theirs = everything(a), everything(b)
        for prefix in ("model/", "optim/", "ema/", "losses"):
            mine, right = ({n: v for n, v in side.items() if n.startswith(prefix)}
                           for side in (ours, theirs))
            self.assertLessEqual(trestle.distance(mine, right), ROUNDING, prefix)

    def test_modes_have_the_same_bits_at_one_micro_batch_a_step(self) -> None:
        runs = [self.train(self.scratch / f"one-{mode}", mode, *ONE_MICRO_BATCH)[0]
                for mode in MODES]
        for run in runs[1:]:
            self.expect_equal_bits(run, runs[0])

    def test_modes_differ_by_rounding_with_micro_batches_and_from_one_rank(self) -> None:
        alone, _ = self.train(self.scratch / "alone", "optimizer", *THREE_MICRO_BATCHES, ranks=1)
        for mode in MODES:
            with self.subTest(mode):
                self.expect_equal_to_rounding(self.whole[mode], alone)

    def test_a_resumed_run_has_the_same_bits(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                run_dir = self.stopped_in_the_middle(mode, f"resumed-{mode}")
                _, said = self.train(run_dir, mode, *THREE_MICRO_BATCHES)
                self.assertIn(f"step-{SAVED:08} at step {SAVED}", said)
                self.expect_equal_bits(run_dir, self.whole[mode])

    def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_three_under_another_mode(self) -> None:
        for i, saved_under in enumerate(MODES):
            for ranks, shift in ((1, 1), (3, 2)):
                loaded_under = MODES[(i + shift) % len(MODES)]
                with self.subTest(f"{saved_under}, then {loaded_under} on {ranks} ranks"):
                    run_dir = self.stopped_in_the_middle(saved_under, f"{saved_under}-{ranks}")
                    _, said = self.train(run_dir, loaded_under, *THREE_MICRO_BATCHES, ranks=ranks)
                    self.assertIn(f"step-{SAVED:08} at step {SAVED}", said)
                    self.expect_equal_to_rounding(run_dir, self.whole[saved_under])


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
