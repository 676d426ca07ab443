#!/usr/bin/env python3
"""What a run refuses or warns of, on two ranks: the sentence, the exit code of each rank, and that
nothing is lost. (Data: bad_data_test.py. Recipes: commands_test.py, tests/configs.)

    python tests/program/refusals_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unittest
from pathlib import Path

import trestle

PROGRAM = Path("trestle")


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-refusals-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.done = cls.scratch / "done"
        trestle.checked(trestle.run(PROGRAM, *cls.command(cls.done), ranks=2))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    @classmethod
    def command(cls, run_dir: Path, *sets: str) -> list[object]:
        values = (f"data.path={cls.data}", "train.steps=4", *sets)
        return ["train", trestle.TINY, "--run-dir", run_dir,
                *trestle.settings(*values)]

    def refused(self, code: int, *words: str, run_dir: Path, sets: tuple[str, ...] = (),
                options: tuple[str, ...] = ()) -> str:
        """Both ranks end with this code, and the words are said once."""
        codes, result = trestle.run_for_codes(PROGRAM, *self.command(run_dir, *sets), *options,
                                              ranks=2)
        self.assertEqual(codes, [code, code], result.stderr)
        for word in words:
            self.assertEqual(result.stderr.count(word), 1, f"{word} in:\n{result.stderr}")
        return result.stderr

    def contents(self, folder: Path) -> dict[str, bytes]:
        """But for what tells who was here."""
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*")
                if p.is_file() and p.suffix != ".log" and "lease" not in p.name and
                p.name != "restarts.jsonl"}

    def test_a_checkpoint_of_another_recipe(self) -> None:
        before = self.contents(self.done)
        said = self.refused(5, "optim.learning_rate: 0.001 there, 0.002 now", "--accept-changes",
                            run_dir=self.done,
                            sets=("optim.learning_rate=0.002", "train.steps=6", "log.every=2"))
        self.assertNotIn("train.steps:", said)  # may change, and so may log.every
        self.assertEqual(self.contents(self.done), before)

        accepted = self.scratch / "accepted"
        shutil.copytree(self.done, accepted)
        result = trestle.run(PROGRAM, *self.command(accepted, "optim.learning_rate=0.002",
                                                    "train.steps=6"), "--accept-changes", ranks=2)
        trestle.checked(result)
        self.assertIn("as accepted", result.stderr)
        self.assertEqual(trestle.last_checkpoint(accepted).manifest["step"], 6)

    def test_a_checkpoint_of_another_model(self) -> None:
        before = self.contents(self.done)
        self.refused(5, "model.num_layers: 2 there, 1 now", run_dir=self.done,
                     sets=("model.num_layers=1",))
        self.refused(5, "tensor model/transformer_blocks.1.attn1.to_q.weight is not expected",
                     run_dir=self.done, sets=("model.num_layers=1", "train.steps=6"),
                     options=("--accept-changes",))
        self.assertEqual(self.contents(self.done), before)

    def test_a_run_directory_of_another_recipe(self) -> None:
        other = self.scratch / "other"
        shutil.copytree(self.done, other)
        shutil.rmtree(other / "checkpoints")
        before = self.contents(other)
        self.refused(2, "run.seed: 5 there, 6 now", run_dir=other, sets=("run.seed=6",))
        self.assertEqual(self.contents(other), before)

    def test_numbers_that_are_not_finite(self) -> None:
        run_dir = self.scratch / "diverged"
        said = self.refused(6, "is not finite", run_dir=run_dir,
                            sets=("optim.learning_rate=1e30", "optim.lr_warmup_steps=0",
                                  "train.steps=20", "checkpoint.every=1",
                                   "train.on_nonfinite=stop"))
        self.assertRegex(said, r"rank \d: step \d+: .*"
                               r"(parameter|gradient of|loss term) [a-z_0-9.]+")
        # The last step that was finite is there, whole.
        saved = trestle.last_checkpoint(run_dir)
        trestle.checked(trestle.run(PROGRAM, "inspect", saved.folder, "--verify"))

    def test_too_many_skipped_steps_in_a_row(self) -> None:
        said = self.refused(6, "4 steps in a row changed nothing (train.max_skips = 3)",
                            run_dir=self.scratch / "skipping",
                            sets=("optim.learning_rate=1e30", "optim.lr_warmup_steps=0",
                                  "train.steps=20", "train.max_skips=3"))
        self.assertEqual(said.count("The step is skipped."), 3)

    def test_a_run_directory_that_cannot_be_written(self) -> None:
        blocked = self.scratch / "file"
        blocked.write_text("in the way")
        self.refused(4, str(blocked), run_dir=blocked / "run")

    def test_more_ranks_than_samples_of_a_step(self) -> None:
        self.refused(2, "train.global_batch = 1 is less than the 2 ranks",
                     run_dir=self.scratch / "small", sets=("train.global_batch=1",))

    def test_a_global_batch_that_does_not_divide_works_and_says_the_cost(self) -> None:
        result = trestle.checked(trestle.run(
            PROGRAM, *self.command(self.scratch / "uneven", "train.global_batch=5"), ranks=2))
        self.assertIn("does not divide by 2 ranks: some take 3 samples of a step and some 2, which "
                      "leaves 17 % of the compute idle", result.stderr)
        self.assertEqual(result.stderr.count("does not divide"), 1)
        metrics = (self.scratch / "uneven" / "metrics.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["samples"] for line in metrics], [5, 10, 15, 20])

    def test_more_ranks_than_cores_works_and_says_the_cost(self) -> None:
        core = min(os.sched_getaffinity(0))
        result = trestle.run("taskset", "-c", core, "mpirun", "-n", 3, "--bind-to", "none", PROGRAM,
                             *self.command(self.scratch / "crowded"))
        trestle.checked(result)
        self.assertIn(f"ranks 0-2 on {os.uname().nodename} share CPU {core}: 3 threads for 1 CPU "
                      "(they take turns, so a step takes about 3.0 times as long",
                      " ".join(result.stderr.split()))


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
