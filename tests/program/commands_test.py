#!/usr/bin/env python3
"""The commands as a user meets them: what they print, what they refuse, and with which exit code.

    python tests/program/commands_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import shutil
import tempfile
import unittest
from pathlib import Path

import numpy as np
from PIL import Image

import trestle

PROGRAM = Path("trestle")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


class Commands(unittest.TestCase):
    """One short run on two ranks; each test asks something of it or of its recipe."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-commands-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.run_dir = cls.scratch / "run"
        cls.first = trestle.checked(cls.train(ranks=2))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    @classmethod
    def train(cls, *sets: str, ranks: int = 0, run_dir: Path | None = None, **kwargs):
        values = (f"data.path={cls.data}", "train.steps=6", "checkpoint.every=3", *sets)
        return trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir or cls.run_dir,
                           *trestle.settings(*values), ranks=ranks, **kwargs)

    def refused(self, result, code: int, *words: str) -> None:
        self.assertEqual(result.returncode, code, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_run_leaves_what_the_readme_promises(self) -> None:
        files = {str(p.relative_to(self.run_dir)) for p in self.run_dir.rglob("*") if p.is_file()}
        for name in ("recipe.resolved.toml", "metrics.jsonl", "summary.json", "logs/rank-00000.log",
                     "logs/rank-00001.log", "samples/step-00000006.png", "checkpoints/latest",
                     "checkpoints/step-00000003/manifest.json",
                     "checkpoints/step-00000006/shard-00001-of-00002.h5"):
            self.assertIn(name, files)
        lines = [json.loads(s) for s in (self.run_dir / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], list(range(6)))
        by_time = {key for key in lines[0] if key.startswith("loss_by_time/")}
        self.assertTrue(by_time and by_time <= {f"loss_by_time/{i}" for i in range(4)}, by_time)
        self.assertEqual(set(lines[0]) - by_time, {"step", "samples", "loss", "lr", "grad_norm",
                                         "samples_per_s", "step_ms", "data_wait_ms",
                                         "checkpoint_wait_ms", "rss_bytes", "bad_samples"})
        summary = json.loads((self.run_dir / "summary.json").read_text())
        for key in ("heldout_error_model", "heldout_error_source", "heldout_error_affine", "steps",
                    "samples_per_s", "wall_s"):
            self.assertIn(key, summary)
        about = json.loads((self.data / "about.json").read_text())
        self.assertAlmostEqual(summary["heldout_error_source"], about["source_error"], places=6)
        self.assertAlmostEqual(summary["heldout_error_affine"], about["affine_error"], places=5)

    def test_the_same_command_again_says_the_run_is_complete(self) -> None:
        before = (self.run_dir / "summary.json").stat().st_mtime_ns
        again = trestle.checked(self.train(ranks=2))
        self.assertIn("complete", again.stderr)
        self.assertEqual((self.run_dir / "summary.json").stat().st_mtime_ns, before)

    def test_a_log_file_gets_plain_lines(self) -> None:
        self.assertNotIn("\r", self.first.stderr)
        self.assertNotIn("\x1b", self.first.stderr)
        self.assertIn("train 6/6 steps", self.first.stderr)
        self.assertIn("CPU", self.first.stderr)  # how ranks and threads are bound

    def test_sample_reproduces_the_grid_on_any_number_of_ranks(self) -> None:
        grid = pixels(self.run_dir / "samples" / "step-00000006.png")
        for ranks in (0, 1, 2, 3):
            out = self.scratch / f"grid-{ranks}.png"
            trestle.checked(trestle.run(PROGRAM, "sample", self.run_dir, "--out", out, ranks=ranks))
            self.assertLessEqual(np.abs(pixels(out) - grid).max(), 1, f"{ranks} ranks")

    def test_inspect_shows_and_verifies(self) -> None:
        newest = self.run_dir / "checkpoints" / "step-00000006"
        result = trestle.checked(trestle.run(PROGRAM, "inspect", newest, "--json"))
        shown = json.loads(result.stdout)
        self.assertEqual((shown["step"], shown["world"]), (6, 2))
        trestle.checked(trestle.run(PROGRAM, "inspect", newest, "--verify"))
        damaged = self.scratch / "damaged"
        shutil.copytree(newest, damaged)
        shard = damaged / "shard-00001-of-00002.h5"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 4
        shard.write_bytes(content)
        result = trestle.run(PROGRAM, "inspect", damaged, "--verify")
        self.assertEqual(result.returncode, 5)
        self.assertIn("shard-00001-of-00002.h5", result.stdout)
        self.refused(trestle.run(PROGRAM, "sample", damaged, ranks=2), 5, "shard-00001-of-00002.h5")
        missing = trestle.run(PROGRAM, "inspect", newest, "--tensor", "model/proj_out.wieght")
        self.refused(missing, 2, "model/proj_out.weight")

    def test_explain_says_where_a_value_comes_from(self) -> None:
        shown = trestle.checked(trestle.run(PROGRAM, "explain", trestle.TINY, "optim.learning_rate",
                                            "--set", "optim.learning_rate=3e-4")).stdout
        for words in ("0.0003", "--set", "default", "0.0001"):
            self.assertIn(words, shown)

    def test_unknown_key_names_line_and_nearest_on_two_ranks(self) -> None:
        recipe = self.scratch / "typo.toml"
        recipe.write_text(f'extends = "{trestle.TINY}"\n\n[train]\nglobal_bach = 4\n')
        result = trestle.run(PROGRAM, "train", recipe, "--run-dir", self.scratch / "x", ranks=2)
        self.refused(result, 2, "typo.toml:4", "global_bach", "global_batch")
        self.assertEqual(result.stderr.count("typo.toml:4"), 1, "printed once, not once a rank")
        self.refused(trestle.run(PROGRAM, "validate", recipe), 2, "typo.toml:4")

    def test_ill_typed_value_and_too_many_ranks(self) -> None:
        self.refused(trestle.run(PROGRAM, "validate", trestle.TINY, "--set", "train.steps=many"), 2,
                     "--set train.steps=many", "integer")
        self.refused(trestle.run(PROGRAM, "validate", trestle.TINY, "--world", 13,
                                 "--set", f"data.path={self.data}"), 2, "train.global_batch")

    def test_missing_data_is_code_three_on_every_rank(self) -> None:
        missing = self.train("data.path=/nowhere", ranks=2, run_dir=self.scratch / "y")
        self.refused(missing, 3, "/nowhere")
        self.refused(trestle.run(PROGRAM, "validate", trestle.TINY), 3, "data.path")

    def test_singletons_by_accident_are_refused(self) -> None:
        alone = {"OMPI_COMM_WORLD_SIZE": "4"}
        self.refused(self.train(run_dir=self.scratch / "z", environment=alone), 4, "mpirun", "4")
        step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0",
                "SLURM_JOB_ID": "7"}
        self.refused(self.train(run_dir=self.scratch / "z", environment=step), 4, "srun --mpi=pmix")
        self.assertFalse((self.scratch / "z").exists())

    def test_allocation_size_alone_refuses_nobody(self) -> None:
        trestle.checked(self.train("train.steps=1", run_dir=self.scratch / "w",
                                   environment={"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}))

    def test_help_lists_what_exists(self) -> None:
        shown = trestle.checked(trestle.run(PROGRAM, "--help")).stdout
        for command in ("train", "validate", "explain", "sample", "inspect", "plan", "bench"):
            self.assertIn(command, shown)
            trestle.checked(trestle.run(PROGRAM, command, "--help"))
        for later in ("export", "doctor", "cache"):
            self.assertNotIn(f"\n  {later}", shown)
        self.refused(trestle.run(PROGRAM, "export"), 2)

    def test_no_checkpoint_and_unwritable_directory(self) -> None:
        self.refused(trestle.run(PROGRAM, "sample", self.scratch), 5, "holds no checkpoint")
        blocked = self.scratch / "file"
        blocked.write_text("in the way")
        self.refused(self.train(run_dir=blocked / "run", ranks=2), 4, str(blocked))

    def test_an_interrupted_run_goes_on(self) -> None:
        run_dir = self.scratch / "interrupted"
        trestle.checked(self.train("train.steps=4", ranks=2, run_dir=run_dir))
        resumed = trestle.checked(self.train(ranks=2, run_dir=run_dir))
        self.assertIn("resumed", resumed.stderr)
        whole = self.scratch / "whole"
        trestle.checked(self.train(ranks=2, run_dir=whole))
        a, b = (trestle.last_checkpoint(d).tensors("") for d in (run_dir, whole))
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], name)


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
