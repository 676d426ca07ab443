#!/usr/bin/env python3
"""Data as it is in the world: damaged pictures, wrong lists, JPEG, and what the program says of it.

    python tests/program/bad_data_test.py --trestle build/release/launch/trestle
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

# Lines (from 1) of the training list that damaged() spoils.
TRUNCATED, TWO_SIZES = 3, 17


def lines(data: Path, name: str = "pairs.jsonl") -> list[dict[str, str]]:
    return [json.loads(line) for line in (data / name).read_text().splitlines()]


def truncate(picture: Path) -> None:
    content = picture.read_bytes()
    picture.write_bytes(content[:len(content) // 2])


class BadData(unittest.TestCase):
    """Copies of one good folder, each spoilt in its own way."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-bad-data-"))
        cls.good = trestle.make_data(cls.scratch / "good")

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def setUp(self) -> None:
        self.folder = self.scratch / self.id().rsplit(".", 1)[-1]
        self.data = self.folder / "data"
        shutil.copytree(self.good, self.data)

    def spoil_two_pairs(self) -> None:
        """A picture that ends too early, and a pair with two sizes."""
        pairs = lines(self.data)
        truncate(self.data / pairs[TRUNCATED - 1]["source"])
        target = self.data / pairs[TWO_SIZES - 1]["target"]
        Image.open(target).resize((16, 12)).save(target)

    def settings(self, sets: tuple[str, ...]) -> list[str]:
        values = (f"data.path={self.data}", "train.steps=4", *sets)
        return trestle.settings(*values)

    def train(self, *sets: str, ranks: int = 0, run: str = "run"):
        return trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", self.folder / run,
                           *self.settings(sets), ranks=ranks)

    def validate(self, *sets: str):
        return trestle.run(PROGRAM, "validate", trestle.TINY, *self.settings(sets))

    def refused_on_every_rank(self, *words: str, sets: tuple[str, ...] = ()) -> None:
        """Each of two ranks ends with code 3, and one of them says why."""
        ranks = 2
        codes, result = trestle.run_for_codes(PROGRAM, "train", trestle.TINY, "--run-dir",
                                              self.folder / "run", *self.settings(sets),
                                              ranks=ranks)
        self.assertEqual(codes, [3] * ranks, result.stderr)
        for word in words:
            self.assertEqual(result.stderr.count(word), 1, f"{word} in:\n{result.stderr}")

    def test_bad_pairs_are_replaced_and_each_is_said_once(self) -> None:
        self.spoil_two_pairs()
        losses = {}
        for ranks in (1, 2):
            result = trestle.checked(self.train(ranks=ranks, run=f"run-{ranks}"))
            log = (self.folder / f"run-{ranks}" / "logs" / "rank-00000.log").read_text()
            for said in (result.stderr, log):
                for line in (TRUNCATED, TWO_SIZES):
                    self.assertEqual(said.count(f"pairs.jsonl:{line}:"), 1, said)
            losses[ranks] = trestle.losses(self.folder / f"run-{ranks}")
        np.testing.assert_allclose(losses[2], losses[1], rtol=1e-6)
        self.data = self.good
        trestle.checked(self.train(run="good"))
        self.assertFalse(np.allclose(losses[1], trestle.losses(self.folder / "good"), rtol=1e-4),
                         "the bad pairs were not met")

    def test_a_resumed_run_does_not_say_it_again(self) -> None:
        self.spoil_two_pairs()
        first = trestle.checked(self.train(ranks=2))  # two epochs
        self.assertIn(f"pairs.jsonl:{TRUNCATED}:", first.stderr)
        again = trestle.checked(self.train("train.steps=6", ranks=2))
        self.assertIn("resumed", again.stderr)
        self.assertNotIn(f"pairs.jsonl:{TRUNCATED}:", again.stderr)

    def test_more_bad_pairs_than_allowed_stop_the_run(self) -> None:
        self.spoil_two_pairs()
        self.refused_on_every_rank("data.max_bad = 1", f"pairs.jsonl:{TRUNCATED}:",
                                   f"pairs.jsonl:{TWO_SIZES}:", sets=("data.max_bad=1",))

    def test_no_bad_pair_is_allowed(self) -> None:
        self.spoil_two_pairs()
        (self.data / lines(self.data)[TWO_SIZES - 1]["target"]).unlink()
        whole = (self.good / lines(self.good)[TRUNCATED - 1]["source"])
        shutil.copy(whole, self.data / lines(self.data)[TRUNCATED - 1]["source"])
        self.refused_on_every_rank("data.max_bad = 0", f"pairs.jsonl:{TWO_SIZES}:",
                                   sets=("data.max_bad=0",))

    def test_a_malformed_line_is_numbered(self) -> None:
        listed = (self.data / "pairs.jsonl").read_text().splitlines(keepends=True)
        listed[6] = listed[6].replace("}", "")
        (self.data / "pairs.jsonl").write_text("".join(listed))
        self.refused_on_every_rank("pairs.jsonl:7 ")
        result = self.validate()
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("pairs.jsonl:7 ", result.stderr)

    def test_missing_folder_list_and_prompts(self) -> None:
        (self.data / "prompts.safetensors").unlink()
        self.refused_on_every_rank("prompts.safetensors cannot be opened")
        (self.data / "pairs.jsonl").unlink()
        self.refused_on_every_rank("has no pairs.jsonl")
        shutil.rmtree(self.data)
        self.refused_on_every_rank("is no folder")

    def test_a_heldout_pair_is_not_replaced_and_nothing_is_lost(self) -> None:
        truncate(self.data / lines(self.data, "heldout.jsonl")[0]["source"])
        self.refused_on_every_rank("heldout.jsonl:1:")
        self.assertEqual(len(trestle.losses(self.folder / "run")), 4)
        self.assertEqual(trestle.last_checkpoint(self.folder / "run").manifest["step"], 4)

    def test_validate_reads_every_picture(self) -> None:
        self.assertIn("no problem found", trestle.checked(self.validate()).stdout)
        self.spoil_two_pairs()
        warned = trestle.checked(self.validate())
        self.assertIn("24 training samples, 2 bad", warned.stdout)
        self.assertIn("8 held-out samples, 0 bad", warned.stdout)
        self.assertNotIn("no problem found", warned.stdout)
        refused = self.validate("data.max_bad=1")
        self.assertEqual(refused.returncode, 3)
        self.assertIn("2 of 24 training samples cannot be used (data.max_bad = 1", refused.stderr)
        for result in (warned, refused):
            for line in (TRUNCATED, TWO_SIZES):
                self.assertEqual(result.stderr.count(f"pairs.jsonl:{line}:"), 1, result.stderr)

        for pair in lines(self.data)[:22]:
            (self.data / pair["target"]).unlink()
        truncate(self.data / lines(self.data, "heldout.jsonl")[7]["target"])
        refused = self.validate("data.max_bad=23")
        self.assertEqual(refused.returncode, 3)
        self.assertEqual(refused.stderr.count("pairs.jsonl:"), 20, refused.stderr)
        for words in ("and 2 more training samples", "heldout.jsonl:8:", "1 of 8 held-out samples"):
            self.assertIn(words, refused.stderr)
        self.assertNotIn("22 of 24", refused.stderr)

    def test_jpeg_pictures_just_work(self) -> None:
        for name in ("pairs.jsonl", "heldout.jsonl"):
            pairs = lines(self.data, name)
            for pair in pairs:
                for side in ("source", "target"):
                    picture = Path(pair[side])
                    jpeg = picture.with_suffix(".jpg")
                    Image.open(self.data / picture).save(self.data / jpeg, quality=95)
                    (self.data / picture).unlink()
                    pair[side] = str(jpeg)
            (self.data / name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        trestle.checked(self.train("train.steps=2", ranks=2, run="jpeg"))
        self.data = self.good
        trestle.checked(self.train("train.steps=2", ranks=2, run="png"))
        jpeg, png = (trestle.losses(self.folder / run) for run in ("jpeg", "png"))
        np.testing.assert_allclose(jpeg, png, rtol=0.05)
        self.assertFalse(np.array_equal(jpeg, png))


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
