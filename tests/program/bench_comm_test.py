#!/usr/bin/env python3
"""`trestle bench comm` alone and on three ranks: table, result file, calibration, plot, and what is
refused.

    python tests/program/bench_comm_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

import trestle

PROGRAM = Path("trestle")
SMALL = ("--max-bytes", "64KB", "--factor", "8", "--rounds", "3", "--warm-up", "1")
OPERATIONS = ["all_reduce", "reduce_scatter", "all_gather", "broadcast"]


class BenchComm(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="trestle-bench-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def measure(self, ranks: int) -> tuple[list[list[str]], dict, dict]:
        """Rows of the table, the result file, the calibration."""
        result, calibration = self.folder / "result.json", self.folder / "calibration.json"
        said = trestle.checked(trestle.run(PROGRAM, "bench", "comm", *SMALL, "--json", result,
                                           "--save", calibration, ranks=ranks))
        table, _, remarks = said.stdout.partition("\n\n")
        self.assertEqual("computing loses" in remarks, ranks > 1, remarks)
        lines = table.splitlines()
        self.assertEqual(len({len(line) for line in lines[1:]}), 1, "the table is not aligned")
        self.assertIn(f"{max(ranks, 1)} ranks", lines[0])
        return ([line.split() for line in lines[2:]], json.loads(result.read_text()),
                json.loads(calibration.read_text()))

    def test_three_ranks(self) -> None:
        rows, result, calibration = self.measure(ranks=3)
        self.assertEqual([r[0] for r in rows], [o for o in OPERATIONS for _ in range(3)])
        self.assertEqual([t["operation"] for t in result["timings"]], [r[0] for r in rows])
        self.assertEqual(result["world"], 3)
        self.assertEqual([h["ranks"] for h in result["hosts"]], [3])
        factor = {"all_reduce": 4 / 3, "reduce_scatter": 2 / 3, "all_gather": 2 / 3, "broadcast": 1}
        for row, timing in zip(rows, result["timings"]):
            self.assertEqual(int(row[1]), timing["bytes"])
            self.assertEqual(timing["bytes"] % 12, 0)
            self.assertGreater(timing["median_s"], 0)
            algbw = timing["bytes"] / timing["median_s"]
            self.assertAlmostEqual(timing["algbw_bytes_per_s"] / algbw, 1)
            self.assertAlmostEqual(timing["busbw_bytes_per_s"] / algbw, factor[row[0]])
            self.assertEqual(sum(mode["rounds"] for mode in timing["modes"]), 3)
        self.assertEqual(calibration["levels"], 1)
        self.assertTrue(0 <= calibration["computing_lost"] < 1)
        self.assertCountEqual(calibration["operations"], OPERATIONS)
        self.assertEqual((calibration["format"], calibration["version"]),
                         ("trestle calibration", 1))
        for operation in calibration["operations"].values():
            self.assertGreaterEqual(operation["latency_s"], 0)
            self.assertGreater(operation["bytes_per_s"], 0)
            self.assertEqual(len(operation["points"]), 3)

    def test_alone_and_drawn(self) -> None:
        rows, result, _ = self.measure(ranks=0)
        self.assertEqual(len(rows), 12)
        self.assertEqual(result["world"], 1)
        plot = [sys.executable, trestle.ROOT / "tools" / "plot_comm"]
        picture = self.folder / "comm.png"
        file = self.folder / "result.json"
        subprocess.run([*plot, file, file, "--out", picture], check=True, capture_output=True)
        with Image.open(picture) as image:
            self.assertGreater(min(image.size), 400)
        file.write_text("{}")
        wrong = subprocess.run([*plot, file, "--out", picture], text=True, capture_output=True,
                               check=False)
        self.assertEqual(wrong.returncode, 3)
        self.assertIn("trestle bench comm --json", wrong.stderr)

    def test_refusals(self) -> None:
        for code, word, *arguments in (
                (2, "--min-bytes", "--min-bytes", "2MB", "--max-bytes", "1MB"),
                (2, "--factor", "--factor", "1"),
                (4, "nowhere", *SMALL, "--json", self.folder / "nowhere" / "file.json")):
            result = trestle.run(PROGRAM, "bench", "comm", *arguments)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertIn(word, result.stderr)


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
