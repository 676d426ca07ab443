#!/usr/bin/env python3
"""A full disk costs a checkpoint and never the run: the old checkpoint stays whole, the failure is
said, and training goes on. Two failed saves in a row, or a failed last one, end it with code 5.

    python tests/fault/full_disk_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

PROGRAM = Path("trestle")
CHECKPOINT_ERROR = 5


class FullDisk(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-full-disk-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        # How much a checkpoint takes, in whole pages.
        trestle.checked(cls.train(cls.scratch / "measure", "train.steps=1"))
        folder = trestle.last_checkpoint(cls.scratch / "measure").folder
        cls.checkpoint_bytes = sum(-(-f.stat().st_size // 4096) * 4096 for f in folder.iterdir())

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def setUp(self) -> None:
        try:
            self.disk = trestle.SmallDisk(self.scratch / self._testMethodName, 64 << 20)
        except (subprocess.CalledProcessError, FileNotFoundError, PermissionError) as error:
            self.skipTest(f"a tmpfs cannot be mounted here: {error}")
        self.addCleanup(self.disk.unmount)
        self.run_dir = self.disk.folder / "run"

    @classmethod
    def train(cls, run_dir: Path, *sets: str):
        values = (f"data.path={cls.data}", "log.tensorboard=false", *sets)
        return trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir,
                           *trestle.settings(*values), ranks=2)

    def whole(self) -> list[str]:
        """The checkpoints that are there; each must verify, and nothing else may be left."""
        folders = sorted((self.run_dir / "checkpoints").glob("*step-*"))
        for folder in folders:
            verified = trestle.run(PROGRAM, "inspect", folder, "--verify")
            self.assertEqual(verified.returncode, 0, verified.stderr)
        return [f.name for f in folders]

    def test_two_failures_in_a_row_end_the_run(self) -> None:
        self.disk.fill_up_to(self.checkpoint_bytes * 3 // 2)
        result = self.train(self.run_dir, "train.steps=40", "checkpoint.every=5")
        self.assertEqual(result.returncode, CHECKPOINT_ERROR, result.stderr)
        self.assertIn("step 10 is not saved", result.stderr)
        self.assertIn("The run goes on", result.stderr)
        self.assertIn("step 15 is not saved", result.stderr)
        self.assertIn("No space left on device", result.stderr)
        self.assertIn("step-00000005 is intact", result.stderr)
        self.assertEqual(self.whole(), ["step-00000005"])

    def test_a_failed_last_save_is_an_error(self) -> None:
        self.disk.fill_up_to(self.checkpoint_bytes * 3 // 2)
        result = self.train(self.run_dir, "train.steps=10", "checkpoint.every=5")
        self.assertEqual(result.returncode, CHECKPOINT_ERROR, result.stderr)
        self.assertIn("step-00000005 is intact", result.stderr)
        self.assertEqual(self.whole(), ["step-00000005"])

    def test_the_run_goes_on_and_saves_again_when_there_is_room(self) -> None:
        ballast = self.disk.fill_up_to(self.checkpoint_bytes * 3 // 2)
        log = self.run_dir / "logs" / "rank-00000.log"

        def make_room() -> None:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if log.exists() and "is not saved" in log.read_text():
                    break
                time.sleep(0.01)
            ballast.unlink()

        thread = threading.Thread(target=make_room)
        thread.start()
        result = self.train(self.run_dir, "train.steps=120", "checkpoint.every=40")
        thread.join()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("step 80 is not saved", result.stderr)
        self.assertEqual(self.whole(), ["step-00000040", "step-00000120"])
        self.assertEqual(len(trestle.losses(self.run_dir)), 120)

    def test_metrics_without_room_cost_lines_and_not_the_run(self) -> None:
        # All but nothing is free from the start; checkpoints go elsewhere.
        (self.run_dir).mkdir()
        elsewhere = self.scratch / "elsewhere"
        elsewhere.mkdir()
        os.symlink(elsewhere, self.run_dir / "checkpoints")
        os.symlink(elsewhere, self.run_dir / "samples")
        self.disk.fill_up_to(16 << 10)
        result = self.train(self.run_dir, "train.steps=120")
        self.assertIn("The run goes on; what cannot be written is missing.", result.stderr)
        self.assertEqual(result.stderr.count("what cannot be written is missing"), 1)
        self.assertTrue((elsewhere / "step-00000120" / "manifest.json").exists())


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
