#!/usr/bin/env python3
"""What tools/soak plans from a seed and makes of what it saw: kills, counts, tables, the page.

    python tests/tools/soak_report_test.py
"""

from __future__ import annotations

import random
import subprocess
import sys
import unittest
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "soak"))
import kills  # noqa: E402
import report  # noqa: E402

NAMES = ["staged", "shard-synced", "renamed"]


def kill(moment: str, world: int = 2, rank: int = 1, newest: int | None = 24,
         lost: int = 3) -> dict:
    return {"kind": "kills", "round": 0, "seconds": 2.0, "world": world, "rank": rank,
            "aim": "an instant", "moment": moment, "step": 27, "newest": newest, "lost": lost,
            "code": 137, "asynchronous": True}


def preemption(moment: str, signal: str, second: str = "") -> dict:
    return {"kind": "preempt", "round": 1, "seconds": 3.0, "world": 3, "moment": moment,
            "signal": signal, "second": second, "step": 31}


def result(events: list[dict], failures: list[dict]) -> dict:
    return {"command": "tools/soak kills 3 --seed 7", "asked": {"kills": 3}, "seconds": 63.0,
            "facts": {"trestle": "abc"}, "named_steps": NAMES, "events": events,
            "failures": failures}


class Plan(unittest.TestCase):
    def test_each_name_as_often_as_asked_and_the_rest_elsewhere(self) -> None:
        planned = kills.plan(200, NAMES, 5, random.Random(1))
        counts = Counter(k.named for k in planned if k.named)
        self.assertEqual(counts, dict.fromkeys(NAMES, 5))
        self.assertEqual(len(planned), 200)
        awaited = Counter(k.awaited for k in planned if k.awaited)
        self.assertEqual(set(awaited), set(kills.PASSING))
        shares = [k.share for k in planned if not k.named and not k.awaited]
        self.assertGreater(max(shares), 0.9)
        self.assertLess(min(shares), 0.1)

    def test_a_seed_repeats_the_plan(self) -> None:
        first, second = (kills.plan(40, NAMES, 1, random.Random("7/kills")) for _ in range(2))
        self.assertEqual(first, second)
        self.assertNotEqual(first, kills.plan(40, NAMES, 1, random.Random("8/kills")))

    def test_named_kills_leave_half_of_a_small_plan_to_chance(self) -> None:
        many = [f"step-{i}" for i in range(20)]
        planned = kills.plan(20, many, 1, random.Random(1))
        self.assertEqual(sum(bool(k.named) for k in planned), 10)
        self.assertEqual(len(planned), 20)


class Report(unittest.TestCase):
    def test_a_named_step_that_was_never_hit_counts_zero(self) -> None:
        counts = report.named_counts([kill("save-staged"), kill("save-staged"), kill("saving")],
                                     NAMES)
        self.assertEqual(counts, {"save-staged": 2, "save-shard-synced": 0, "save-renamed": 0})

    def test_lines(self) -> None:
        self.assertEqual(report.line(kill("saving")), "2 ranks: rank 1 killed, saving, after step "
                         "27; checkpoint 24 whole, 3 steps to repeat")
        self.assertIn("1 rank: rank 0 killed, starting", report.line(
            kill("starting", world=1, rank=0, newest=None)))
        self.assertIn("nothing was saved yet", report.line(kill("starting", newest=None)))
        self.assertIn("TERM to mpirun, job, then SIGINT during the save",
                      report.line(preemption("job", "TERM to mpirun", "SIGINT")))

    def test_tables(self) -> None:
        events = [kill("saving"), kill("saving", world=3, rank=2, lost=9), kill("save-renamed"),
                  preemption("data", "TERM to mpirun"), preemption("job", "USR2 to a rank"),
                  preemption("job", "USR2 to a rank", "SIGTERM")]
        text = "\n".join(report.tables(events, NAMES))
        for words in ("## kills: 3", "median 3, at most 9", "| saving | 2 |",
                      "| save-renamed | 1 |", "| save-staged | 0 |", "| 3 | 0 | 1 |",
                      "## preempt: 3", "| moment | TERM to mpirun | USR2 to a rank |",
                      "| job | 0 | 2 |", "| SIGTERM | 1 |"):
            self.assertIn(words, text)

    def test_page(self) -> None:
        good = report.page(result([kill("saving")], []))
        self.assertIn("Asked for 3 kills: **every promise held**, in 1.1 min.", good)
        self.assertIn("| trestle | abc |", good)
        failure = {"command": "tools/soak kills 3 --seed 7 --round 0", "problem": "it differs"}
        bad = report.page(result([kill("saving")], [failure]))
        self.assertIn("**1 promises did not hold**", bad)
        self.assertIn("`tools/soak kills 3 --seed 7 --round 0`", bad)
        self.assertIn("it differs", bad)


class Program(unittest.TestCase):
    def test_refusals(self) -> None:
        for arguments, words in (
            (["kills"], "each kind needs a number"),
            (["sabotage", "3"], 'there is no "sabotage"'),
            (["kills", "0"], "a number of 1 or more"),
            (["kills", "3", "preempt", "1", "--round", "0"], "of one kind"),
        ):
            ran = subprocess.run([sys.executable, ROOT / "tools" / "soak", *arguments],
                                 capture_output=True, text=True, check=False)
            self.assertEqual(ran.returncode, 2, ran.stderr)
            self.assertIn(words, ran.stderr)
        ran = subprocess.run([sys.executable, ROOT / "tools" / "soak", "kills", "1", "--trestle",
                              "/nowhere/trestle"], capture_output=True, text=True, check=False)
        self.assertEqual(ran.returncode, 4)
        self.assertIn("there is no program /nowhere/trestle", ran.stderr)


if __name__ == "__main__":
    unittest.main()
