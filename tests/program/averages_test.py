#!/usr/bin/env python3
"""Several moving averages in one run: each follows by its own schedule, all are saved and resumed,
and pictures are made with the one that is named.

    python tests/program/averages_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import hashlib
import tempfile
import unittest
from pathlib import Path

import numpy as np

import trestle

PROGRAM = Path()
# "still" keeps the first weights, "same" always copies the newest.
AVERAGES = ["ema.decay=0.9", 'ema.more=["still", "same"]',
            'ema.still.schedule="constant"', "ema.still.decay=0.9999999999",
            'ema.same.schedule="constant"', "ema.same.decay=0"]


class Averages(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.scratch = Path(folder.name)
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.train("whole", "train.steps=6")

    @classmethod
    def train(cls, name: str, *sets: str) -> trestle.Checkpoint:
        run_dir = cls.scratch / name
        trestle.checked(trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir,
                                    *trestle.settings(f"data.path={cls.data}",
                                                      "train.micro_batch=6", "checkpoint.every=3",
                                                      *AVERAGES, *sets), ranks=2))
        return trestle.last_checkpoint(run_dir)

    def picture(self, weights: str) -> str:
        out = self.scratch / f"{weights}.png"
        trestle.checked(trestle.run(PROGRAM, "sample", self.scratch / "whole", "--out", out,
                                    "--set", f"sample.weights={weights}"))
        return hashlib.sha256(out.read_bytes()).hexdigest()

    def test_each_follows_by_its_own_schedule(self) -> None:
        saved = trestle.last_checkpoint(self.scratch / "whole")
        weights = saved.tensors("model/")
        self.assertGreater(len(weights), 20)
        for name, now in weights.items():
            own = name.removeprefix("model/")
            np.testing.assert_array_equal(saved.tensor(f"ema.same/{own}"), now, err_msg=own)
        distances = {plane: trestle.distance(
            weights, {n: saved.tensor(n.replace("model/", f"{plane}/", 1)) for n in weights})
            for plane in ("ema", "ema.still")}
        self.assertGreater(distances["ema"], 0)
        self.assertGreater(distances["ema.still"], 1.5 * distances["ema"])

    def test_a_resumed_run_has_the_same_bits(self) -> None:
        self.train("halves", "train.steps=3")
        resumed = self.train("halves", "train.steps=6").tensors("ema")
        whole = trestle.last_checkpoint(self.scratch / "whole").tensors("ema")
        self.assertEqual(resumed.keys(), whole.keys())
        for name, values in whole.items():
            np.testing.assert_array_equal(resumed[name], values, err_msg=name)

    def test_pictures_are_made_with_the_one_that_is_named(self) -> None:
        pictures = {w: self.picture(w) for w in ("ema", "ema.same", "ema.still", "model")}
        self.assertEqual(pictures["ema.same"], pictures["model"])
        self.assertEqual(len(set(pictures.values())), 3)

    def test_names_that_cannot_be_are_refused(self) -> None:
        for sets, message in (
                (['ema.more=["a.b"]'], 'ema.more names an average "a.b"'),
                (['ema.more=["x", "x"]'], 'ema.more names an average "x" (twice)'),
                (["ema.slow.decay=0.5"], "ema.slow"),
                (["ema.more=[]", "sample.weights=ema.slow"], 'sample.weights = "ema.slow"'),
                (["ema.enabled=false", 'ema.more=["slow"]'], "ema.more")):
            with self.subTest(sets=sets):
                result = trestle.run(PROGRAM, "validate", trestle.TINY,
                                     *trestle.settings(f"data.path={self.data}", *sets))
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(message, result.stderr)


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
