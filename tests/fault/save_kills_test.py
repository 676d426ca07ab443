#!/usr/bin/env python3
"""A rank that is killed (-9) at any named step of a save leaves a valid newest checkpoint, and the
run that goes on from it ends with the weights of one that was never killed, bit by bit.

    python tests/fault/save_kills_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

PROGRAM = Path("trestle")
# Only rank 0 comes to these.
OF_RANK_0 = ("parts-read", "manifest-written", "parts-removed", "folder-synced", "renaming",
             "renamed", "rename-synced", "latest-written", "pruned")
# From here on the checkpoint is there.
PUBLISHED = ("renamed", "rename-synced", "latest-written", "pruned", "sealed")
# Rank 1 comes to this while rank 0 may already seal.
EITHER = ("agreed",)


class SaveKills(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-save-kills-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        trestle.checked(cls.train(cls.scratch / "whole"))
        cls.whole = trestle.last_checkpoint(cls.scratch / "whole").tensors("")

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    @classmethod
    def train(cls, run_dir: Path, *options: str):
        values = (f"data.path={cls.data}", "train.steps=16", "checkpoint.every=4",
                  "log.tensorboard=false")
        return trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir,
                           *trestle.settings(*values), *options, ranks=2)

    def names(self) -> list[str]:
        """Of all steps that a save which succeeds goes through, as the program lists them."""
        said = trestle.checked(trestle.run(PROGRAM, "train", "--help")).stdout
        names = re.findall(r"save-([a-z]+(?:-[a-z]+)*)", re.sub(r"\s+", " ", said))
        return [n for n in names if n != "discarded"]

    def test_at_every_named_step(self) -> None:
        names = self.names()
        self.assertGreaterEqual(len(names), 19)
        for i, name in enumerate(names):
            rank = 0 if name in OF_RANK_0 else i % 2
            with self.subTest(step=name, rank=rank):
                run_dir = self.scratch / name
                killed = self.train(run_dir, "--inject", f"kill@rank{rank}:save-{name}@step8")
                self.assertNotEqual(killed.returncode, 0, killed.stderr)
                newest = trestle.last_checkpoint(run_dir)
                verified = trestle.run(PROGRAM, "inspect", newest.folder, "--verify")
                self.assertEqual(verified.returncode, 0, verified.stderr)
                if name not in EITHER:
                    expected = "step-00000008" if name in PUBLISHED else "step-00000004"
                    self.assertEqual(newest.folder.name, expected)
                again = trestle.checked(self.train(run_dir))
                self.assertIn(f"resumed from {newest.folder}", again.stderr)
                resumed = trestle.last_checkpoint(run_dir).tensors("")
                self.assertEqual(resumed.keys(), self.whole.keys())
                for tensor, value in self.whole.items():
                    np.testing.assert_array_equal(resumed[tensor], value, err_msg=tensor)
                left = [p.name for p in (run_dir / "checkpoints").iterdir()
                        if not p.name.startswith("step-")]
                self.assertEqual(sorted(left), ["epochs.json", "latest"])


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
