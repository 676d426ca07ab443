#!/usr/bin/env python3
"""What benchmarks/checkpoint makes of its numbers: ratios of one round's pairs, goals reached and
missed, the page.

    python tests/tools/checkpoint_report_test.py
"""

from __future__ import annotations

import copy
import importlib.util
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE.parent.parent / "benchmarks" / "checkpoint" / "report.py"
specification = importlib.util.spec_from_file_location("checkpoint_report", FILE)
report = importlib.util.module_from_spec(specification)
specification.loader.exec_module(report)

MIB = 1 << 20


def one_round(slower: float = 1.0) -> dict:
    """A round that reaches every goal; `slower` stretches the times of both sides alike."""

    def steps(plain_s: float, excess_s: float = 0.0, waited_s: float = 0.0) -> dict:
        return {"steps_s": slower * (plain_s + excess_s), "waited_s": slower * waited_s,
                "saved_s": slower * 2 * (1 + waited_s), "grown_bytes": 250 * MIB}

    return {
        "raw": {"write_s": 1.8 * slower}, "raw_direct": {"write_s": 2.0 * slower},
        "read": {"read_s": 1.7 * slower},
        "save": {"save_s": 1.9 * slower, "grown_bytes": 1100 * MIB},
        "load": {"load_s": 2.0 * slower}, "copy": {"copy_s": 0.3 * slower},
        "dcp_save": {"save_s": 3.8 * slower, "grown_bytes": 20 * MIB},
        "dcp_load": {"load_s": 5.0 * slower},
        "plain": steps(10), "async": steps(10, 0.5, 0.02), "limited_async": steps(10, 1.5, 1.2),
        "bare": steps(4), "bare_async": steps(4, 0.6, 0.33),
        "dcp_plain": steps(10), "dcp_async": steps(10, 3, 0.8), "dcp_cached": steps(10, 2, 0.4),
    }


def result(rounds: list[dict]) -> dict:
    return {"command": "run", "facts": {"processor": "P"}, "bytes": 2048 * MIB, "tensors": 64,
            "ranks": 2, "threads": 1, "products": 300, "steps": 5, "staging_bytes": 256 * MIB,
            "file_system": "ext4 /dev/vda", "cold": "dropping", "warm_up": one_round(),
            "rounds": rounds}


class Numbers(unittest.TestCase):
    def test_ratios_are_of_one_round(self) -> None:
        # A slow minute of the machine hits both sides of a round and leaves their ratio.
        n = report.Numbers(result([one_round(), one_round(slower=3)]))
        for ratio in n.write("raw"):
            self.assertAlmostEqual(ratio, 1.8 / 1.9)
        for ratio in n.load():
            self.assertAlmostEqual(ratio, 0.85)
        for ratio in n.stall("bare_async"):
            self.assertAlmostEqual(ratio, 1.1)
        self.assertAlmostEqual(n.excess_s("async", "plain")[0], 0.5)

    def test_the_share_is_of_500_steps(self) -> None:
        n = report.Numbers(result([one_round()]))
        # 0.5 s in 500 steps of 2 s.
        self.assertAlmostEqual(n.share("async", "plain", steps=5)[0], 0.5 / 1000)

    def test_the_other_side_is_given_its_best_way(self) -> None:
        n = report.Numbers(result([one_round()]))
        self.assertAlmostEqual(n.faster("async", "waited_s", "dcp_async", "dcp_cached")[0], 20)
        self.assertAlmostEqual(n.faster("save", "save_s", "dcp_save")[0], 2)

    def test_next_to_nothing_is_no_ratio_of_thousands(self) -> None:
        found = one_round()
        found["async"]["waited_s"] = 1e-7
        n = report.Numbers(result([found]))
        self.assertAlmostEqual(n.faster("async", "waited_s", "dcp_cached")[0], 400)


class Page(unittest.TestCase):
    @staticmethod
    def reached(rounds: list[dict]) -> list[bool]:
        rows = report.goal_rows(report.Numbers(result(rounds)), result(rounds))
        return [row.endswith("| yes |") for row in rows]

    def test_every_goal_can_be_reached_and_missed(self) -> None:
        good = one_round()
        self.assertEqual(self.reached([good] * 5), [True] * 11)
        worse = [  # word, key and a number that misses the goal of that row
            ("raw", "write_s", 1.7), ("raw_direct", "write_s", 1.7),
            ("async", "waited_s", 0.37), ("bare_async", "waited_s", 0.37),
            ("async", "steps_s", 20.1), ("load", "load_s", 2.2), ("dcp_save", "save_s", 1.8),
            ("dcp_cached", "waited_s", 0.01), ("dcp_async", "saved_s", 1.0),
            ("dcp_load", "load_s", 1.9),
            ("limited_async", "grown_bytes", 289 * MIB),
        ]
        for row, (word, key, number) in enumerate(worse):
            bad = copy.deepcopy(good)
            bad[word][key] = number
            wanted = [i != row for i in range(11)]
            self.assertEqual(self.reached([bad] * 5), wanted, f"{word} {key} = {number}")
            # A median: two of five rounds that miss it change nothing (memory is a maximum).
            if key != "grown_bytes":
                self.assertEqual(self.reached([bad] * 2 + [good] * 3), [True] * 11, word)

    def test_memory_is_what_the_first_save_took(self) -> None:
        # Later ones find it there.
        found = result([one_round()] * 5)
        found["warm_up"]["limited_async"]["grown_bytes"] = 400 * MIB
        n = report.Numbers(found)
        self.assertEqual(n.grown_bytes("limited_async"), 400 * MIB)
        self.assertIsNone(n.grown_bytes("raw"))
        self.assertTrue(report.goal_rows(n, found)[-1].endswith("| 400 MiB | no |"))

    def test_page(self) -> None:
        text = report.page(result([one_round(), one_round(), one_round(slower=2)]))
        for words in (
            "| a save writes at 0.9 of a raw write with fsync | 0.95 (0.95 to 0.95) |",
            "| raw write, fsync | 1.80 (1.80 to 3.60) | 1193 | - |",
            "| DCP: save | 3.80 (3.80 to 7.60) | 565 | 20 |",
            "2,048 MiB of state", "emptied before each load and read by dropping",
            "| Trestle, update alone | 0.330 (0.330 to 0.660) | 0.60 (0.60 to 1.20) | - |",
            "| Trestle | 0.020 (0.020 to 0.040) | 0.50 (0.50 to 1.00) | 0.05 (0.05 to 0.05) % |",
        ):
            self.assertIn(words, text)


if __name__ == "__main__":
    unittest.main()
