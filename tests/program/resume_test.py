#!/usr/bin/env python3
"""Where a run begins, from outside: damaged checkpoints, --resume, other numbers of ranks.

    python tests/program/resume_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import shutil
import tempfile
import unittest
from pathlib import Path

import numpy as np

import trestle

PROGRAM = Path("trestle")


def damage(checkpoint: Path, name: str = "") -> str:
    """Flips a bit of a tensor's bytes; returns the file's name."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    record = manifest["tensors"][name or max(manifest["tensors"])]
    piece = record["pieces"][-1]
    path = checkpoint / piece["file"]
    content = bytearray(path.read_bytes())
    content[piece["offset"] + piece["bytes"] // 2] ^= 8
    path.write_bytes(content)
    return piece["file"]


class Resume(unittest.TestCase):
    """Each test trains a few steps in a directory of its own."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-resume-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.whole = cls.scratch / "whole"
        trestle.checked(cls.train(cls.whole))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    @classmethod
    def train(cls, run_dir: Path, *sets: str, ranks: int = 2, options: tuple = ()):
        values = (f"data.path={cls.data}", "train.steps=6", "checkpoint.every=2", *sets)
        return trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir, *options,
                           *trestle.settings(*values), ranks=ranks)

    def refused(self, result, code: int, *words: str) -> None:
        self.assertEqual(result.returncode, code, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def checkpoint(self, run_dir: Path, step: int) -> Path:
        return run_dir / "checkpoints" / f"step-{step:08}"

    def assert_same_state(self, a: Path, b: Path) -> None:
        one, other = (trestle.Checkpoint(p).tensors("") for p in (a, b))
        self.assertEqual(one.keys(), other.keys())
        for name in one:
            self.assertEqual(one[name].tobytes(), other[name].tobytes(), name)
        self.assertEqual(trestle.run(PROGRAM, "inspect", a, "--diff", b).returncode, 0)

    def test_a_damaged_checkpoint_is_renamed_and_the_one_before_used(self) -> None:
        run_dir = self.scratch / "fallback"
        trestle.checked(self.train(run_dir, "train.steps=4"))
        file = damage(self.checkpoint(run_dir, 4))
        resumed = trestle.checked(self.train(run_dir))
        said = [line for line in resumed.stderr.splitlines() if "CHECKPOINT DAMAGED" in line]
        self.assertEqual(len(said), 1, resumed.stderr)
        for word in (file, "tensor ", "bytes [", "step-00000004.damaged"):
            self.assertIn(word, said[0])
        self.assertIn("at step 2", resumed.stderr)
        aside = run_dir / "checkpoints" / "step-00000004.damaged"
        self.assertEqual(trestle.run(PROGRAM, "inspect", aside, "--verify").returncode, 5)
        self.assert_same_state(self.checkpoint(run_dir, 6), self.checkpoint(self.whole, 6))
        self.assert_same_state(self.checkpoint(run_dir, 4), self.checkpoint(self.whole, 4))
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["step"] for line in lines], list(range(6)))

    def test_all_damaged_is_code_five_on_every_rank_until_told_to_begin_anew(self) -> None:
        run_dir = self.scratch / "all-damaged"
        trestle.checked(self.train(run_dir, "train.steps=4"))
        for step in (2, 4):
            damage(self.checkpoint(run_dir, step))
        for _ in range(2):
            self.refused(self.train(run_dir), 5, "No checkpoint in", "--resume never")
        trestle.checked(self.train(run_dir, options=("--resume", "never")))
        self.assert_same_state(self.checkpoint(run_dir, 6), self.checkpoint(self.whole, 6))

    def test_resume_never_mixes_no_runs(self) -> None:
        run_dir = self.scratch / "never"
        trestle.checked(self.train(run_dir, "train.steps=2", options=("--resume", "never")))
        again = self.train(run_dir, options=("--resume", "never"))
        self.refused(again, 2, "holds checkpoints up to step 2", "--resume auto")
        self.assertEqual(again.stderr.count("holds checkpoints"), 1, "said once")
        trestle.checked(self.train(run_dir, options=("--resume", "auto")))
        self.assert_same_state(self.checkpoint(run_dir, 6), self.checkpoint(self.whole, 6))
        self.refused(self.train(run_dir, options=("--resume", self.checkpoint(run_dir, 2))), 2,
                     "is not the newest of them")
        self.refused(self.train(run_dir, options=("--resume", "")), 2, "--resume names nothing")

    def test_a_run_begins_at_anothers_checkpoint_and_goes_on(self) -> None:
        run_dir = self.scratch / "branch"
        options = ("--resume", self.checkpoint(self.whole, 2))
        trestle.checked(self.train(run_dir, "train.steps=4", options=options))
        again = trestle.checked(self.train(run_dir, options=options))
        self.assertIn("at step 4", again.stderr)
        self.assert_same_state(self.checkpoint(run_dir, 6), self.checkpoint(self.whole, 6))
        self.assertFalse(self.checkpoint(run_dir, 2).exists())

    def test_other_numbers_of_ranks_load_every_bit(self) -> None:
        for writers, readers in ((1, 3), (3, 2), (4, 1)):
            with self.subTest(writers=writers, readers=readers):
                source, target = (self.scratch / f"{kind}-{writers}-{readers}"
                                  for kind in ("saved", "loaded"))
                trestle.checked(self.train(source, "train.steps=2", ranks=writers))
                # Nothing is left to train, so what is saved is what was loaded.
                loaded = trestle.checked(self.train(target, "train.steps=2", ranks=readers,
                                                    options=("--resume", source)))
                self.assertIn("at step 2", loaded.stderr)
                manifest = trestle.Checkpoint(self.checkpoint(target, 2)).manifest
                self.assertEqual(manifest["world"], readers)
                self.assert_same_state(self.checkpoint(source, 2), self.checkpoint(target, 2))

    def test_sample_goes_back_in_a_run_and_renames_nothing(self) -> None:
        run_dir = self.scratch / "sample"
        trestle.checked(self.train(run_dir))
        damage(self.checkpoint(run_dir, 6))
        out = self.scratch / "sample.png"
        made = trestle.checked(trestle.run(PROGRAM, "sample", run_dir, "--out", out, ranks=2))
        self.assertIn("step-00000004", made.stderr)
        self.assertTrue(self.checkpoint(run_dir, 6).exists())
        self.refused(trestle.run(PROGRAM, "sample", self.checkpoint(run_dir, 6), ranks=2), 5,
                     "is damaged")


class Inspect(unittest.TestCase):
    """What `trestle inspect` prints, against h5py and numpy."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-inspect-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.run_dir = cls.scratch / "run"
        trestle.checked(trestle.run(
            PROGRAM, "train", trestle.TINY, "--run-dir", cls.run_dir,
            *trestle.settings(f"data.path={cls.data}", "train.steps=4", "checkpoint.every=2"),
            ranks=2))
        cls.first = cls.run_dir / "checkpoints" / "step-00000002"
        cls.newest = cls.run_dir / "checkpoints" / "step-00000004"

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def inspect(self, *arguments: object, code: int = 0) -> str:
        result = trestle.run(PROGRAM, "inspect", *arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout

    def test_a_tensor_has_the_numbers_that_numpy_finds(self) -> None:
        checkpoint = trestle.Checkpoint(self.newest)
        names = sorted(checkpoint.manifest["tensors"])
        split = [n for n in names if len(checkpoint.manifest["tensors"][n]["pieces"]) > 1]
        self.assertTrue(split)
        for name in {*names[::20], *split[:2], names[-1]}:
            values = checkpoint.tensor(name).astype(np.float64)
            shown = json.loads(self.inspect(self.newest, "--tensor", name, "--json"))
            self.assertEqual(shown["shape"], list(values.shape))
            self.assertEqual(shown["elements"], values.size)
            self.assertEqual((shown["min"], shown["max"]), (values.min(), values.max()))
            self.assertAlmostEqual(shown["mean"], values.mean(), delta=1e-12)
            self.assertEqual(shown["zeros"], int((values == 0).sum()))
            self.assertEqual(shown["first"], values.reshape(-1)[:8].tolist())
            self.assertEqual((shown["nans"], shown["infinities"]), (0, 0))
            self.assertEqual(shown["pieces"], checkpoint.manifest["tensors"][name]["pieces"])
            if name != names[-1]:
                continue
            text = self.inspect(self.newest, "--tensor", name)
            for part in (name, "min ", "mean ", "first values", "offset"):
                self.assertIn(part, text)

    def test_verify_names_every_damage(self) -> None:
        self.assertTrue(json.loads(self.inspect(self.newest, "--verify", "--json"))["whole"])
        damaged = self.scratch / "damaged"
        shutil.copytree(self.newest, damaged)
        file = damage(damaged)
        (damaged / "notes.txt").write_text("mine")
        (damaged / "shard-00000-of-00002.h5").unlink()
        report = json.loads(self.inspect(damaged, "--verify", "--json", code=5))
        self.assertFalse(report["whole"])
        found = {d["file"]: d for d in report["damages"]}
        self.assertEqual(set(found), {file, "notes.txt", "shard-00000-of-00002.h5"})
        self.assertIn("tensor ", found[file]["what"])
        self.assertIn("does not list", found["notes.txt"]["what"])
        self.assertIn("No such file", found["shard-00000-of-00002.h5"]["what"])
        text = self.inspect(damaged, "--verify", code=5)
        self.assertEqual(text.count("damaged: "), 3)

    def test_diff_says_what_differs_and_by_how_much(self) -> None:
        self.assertIn("0 and 0 are not", self.inspect(self.newest, "--diff", self.newest))
        report = json.loads(self.inspect(self.first, "--diff", self.newest, "--json", code=1))
        self.assertFalse(report["same"])
        self.assertEqual(report["values"]["trainer/step"], {"a": 2, "b": 4})
        one, other = (trestle.Checkpoint(p).tensors("") for p in (self.first, self.newest))
        for name, a in one.items():
            a, b = a.astype(np.float64), other[name].astype(np.float64)
            unequal = int((a != b).sum())
            if unequal == 0:
                continue
            shown = report["tensors"][name]
            self.assertEqual((shown["unequal"], shown["elements"]), (unequal, a.size))
            self.assertEqual(shown["max_abs"], np.abs(a - b).max())
            size = np.maximum(np.abs(a), np.abs(b))
            relative = np.divide(np.abs(a - b), size, where=size > 0, out=np.zeros_like(a))
            self.assertAlmostEqual(shown["max_rel"], relative.max(), delta=1e-15)
        text = self.inspect(self.first, "--diff", self.newest, code=1)
        self.assertIn("value trainer/step: 2 in A, 4 in B", text)
        self.assertIn("elements have other bits", text)

    def test_diff_says_what_is_in_one_only_and_what_recipes_say(self) -> None:
        other = self.scratch / "other"
        trestle.checked(trestle.run(
            PROGRAM, "train", trestle.TINY, "--run-dir", other,
            *trestle.settings(f"data.path={self.data}", "train.steps=4", 'ema.more=["fast"]')))
        text = self.inspect(self.newest, "--diff", other, code=1)
        self.assertIn("only in B", text)
        self.assertIn("recipe ema.more", text)
        report = json.loads(self.inspect(other, "--diff", self.newest, "--json", code=1))
        only = [n for n, t in report["tensors"].items() if "b" not in t]
        self.assertTrue(only and all(n.startswith("ema.fast/") for n in only), only)
        self.assertIn("ema.more", report["recipe"])

    def test_the_measured_time_is_no_difference(self) -> None:
        copy = self.scratch / "copy"
        trestle.checked(trestle.run(
            PROGRAM, "train", trestle.TINY, "--run-dir", copy, "--resume", self.first,
            *trestle.settings(f"data.path={self.data}", "train.steps=4"), ranks=2))
        report = json.loads(self.inspect(copy, "--diff", self.newest, "--json"))
        self.assertTrue(report["same"])
        self.assertEqual(set(report["values"]), {"trainer/wall_s"})

    def test_refusals(self) -> None:
        for arguments in (("nowhere",), (self.newest, "--verify", "--tensor", "x"),
                          (self.newest, "--diff", "nowhere"), (self.newest, "--tensor", "x")):
            self.inspect(*arguments, code=2)
        self.inspect(self.scratch / "data" / "train", code=5)
        self.inspect(self.scratch / "data", code=3)  # it has a file of weights, which may be meant


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
