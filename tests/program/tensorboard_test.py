#!/usr/bin/env python3
"""tensorboard's own reader is asked what it makes of our event files: of a writer's, whose numbers
and pictures are known, and of a training run's, beside its metrics.jsonl and its pictures.

    python tests/program/tensorboard_test.py --trestle build/release/launch/trestle \\
        --example-events build/release/tests/example_events
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub import errors
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

import trestle

PROGRAM = Path("trestle")
EXAMPLE = Path("example_events")


def read(folder: Path) -> EventAccumulator:
    """Everything that the files of a folder say, nothing sampled away."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return reader.Reload()


def count_records(file: Path) -> int:
    """The records of a file; a wrong checksum is a DataLossError."""
    records = PyRecordReader_New(str(file))
    count = 0
    while True:
        try:
            records.GetNext()
        except errors.OutOfRangeError:
            return count
        count += 1


def values(reader: EventAccumulator, tag: str) -> dict[int, float]:
    events = reader.Scalars(tag)
    assert len({e.step for e in events}) == len(events), f"{tag} has a step twice"
    return {e.step: e.value for e in events}


def pictures(reader: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
    found = {}
    for event in reader.Images(tag):
        pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert pixels.shape == (event.height, event.width, 3), pixels.shape
        assert event.step not in found, f"{tag} has step {event.step} twice"
        found[event.step] = pixels
    return found


class Scratch(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="trestle-events-"))
        self.addCleanup(shutil.rmtree, self.folder)


class Writer(Scratch):
    def write(self, first: int, last: int) -> Path:
        """The events of the example program's steps; returns the file that is new."""
        before = set(self.folder.iterdir())
        subprocess.run([EXAMPLE, self.folder, str(first), str(last)], check=True)
        (new,) = set(self.folder.iterdir()) - before
        return new

    def test_scalars_come_back(self) -> None:
        self.write(1, 300)
        reader = read(self.folder)
        self.assertEqual(reader.file_version, 2.0)
        self.assertEqual(values(reader, "train/loss"),
                         {s: float(np.float32(1 / s)) for s in range(1, 301)})
        self.assertEqual(values(reader, "train/negative")[7], float(np.float32(-7e-30)))
        self.assertEqual(values(reader, "train/large")[7], float(np.float32(3e38)))
        self.assertTrue(math.isnan(values(reader, "train/not finite")[7]))

    def test_pictures_come_back(self) -> None:
        self.write(1, 6)
        found = pictures(read(self.folder), "samples")
        self.assertEqual(sorted(found), [2, 4, 6])
        for step, pixels in found.items():
            y, x = np.mgrid[:9, :20 + step]
            expected = np.stack([7 * x, 13 * y, np.full_like(x, step)], -1) % 256
            np.testing.assert_array_equal(pixels, expected)

    def test_a_resumed_run_shows_each_step_once(self) -> None:
        self.write(1, 9)
        self.write(5, 12)
        reader = read(self.folder)
        self.assertEqual(values(reader, "session"),
                         {s: 1.0 if s < 5 else 5.0 for s in range(1, 13)})
        self.assertEqual(sorted(pictures(reader, "samples")), [2, 4, 6, 8, 10, 12])

    def test_a_changed_byte_is_found_wherever_it_is(self) -> None:
        file = self.write(1, 2)
        self.assertEqual(count_records(file), 5)  # version, START, two steps, a picture
        content = file.read_bytes()
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            with self.assertRaises(errors.DataLossError, msg=f"byte {place}"):
                count_records(file)

    def test_what_a_killed_run_left_of_a_record_costs_only_that_record(self) -> None:
        file = self.write(1, 3)
        file.write_bytes(file.read_bytes()[:-5])
        self.assertEqual(sorted(values(read(self.folder), "train/loss")), [1, 2])


class Run(Scratch):
    def train(self, *sets: str) -> None:
        settings = trestle.settings(f"data.path={self.data}", "train.global_batch=4",
                                    "sample.every=2", "checkpoint.every=3", *sets)
        trestle.checked(trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", self.run_dir,
                                    *settings))

    def setUp(self) -> None:
        super().setUp()
        self.data = trestle.make_data(self.folder / "data")
        self.run_dir = self.folder / "run"

    def check(self, steps: int, pictures_at: list[int]) -> None:
        """TensorBoard counts steps done: the line of step n of metrics.jsonl is at n + 1."""
        reader = read(self.run_dir)
        lines = [json.loads(s) for s in (self.run_dir / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], list(range(steps)))
        for key in ("loss", "lr", "grad_norm"):
            self.assertEqual(values(reader, f"train/{key}"),
                             {line["step"] + 1: float(np.float32(line[key])) for line in lines})
        for quarter in range(4):
            key = f"loss_by_time/{quarter}"
            expected = {n["step"] + 1: float(np.float32(n[key])) for n in lines if key in n}
            if expected:
                self.assertEqual(values(reader, f"train/{key}"), expected)
        found = pictures(reader, "samples")
        self.assertEqual(sorted(found), pictures_at)
        for step, pixels in found.items():
            file = self.run_dir / "samples" / f"step-{step:08}.png"
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(file)))

    def test_a_run_says_what_its_metrics_say(self) -> None:
        self.train("train.steps=5")
        self.check(5, [2, 4, 5])

    def test_a_resumed_run_has_every_step_once(self) -> None:
        self.train("train.steps=5")
        shutil.rmtree(self.run_dir / "checkpoints" / "step-00000005")
        self.train("train.steps=7")  # goes on from step 3
        self.check(7, [2, 4, 6, 7])

    def test_no_events_when_they_are_off(self) -> None:
        self.train("train.steps=1", "log.tensorboard=false")
        self.assertEqual(list(self.run_dir.glob("events.*")), [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    parser.add_argument("--example-events", type=Path, required=True, help="the example writer")
    known, rest = parser.parse_known_args()
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every resumed run
    PROGRAM, EXAMPLE = known.trestle.resolve(), known.example_events.resolve()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
