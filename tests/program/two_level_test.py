#!/usr/bin/env python3
"""Reductions in two levels from outside: four ranks on two hosts, which are host names of their own
on this machine (UTS namespaces). What is logged, what stands in the checkpoint, that the weights
are those of one level to rounding, what is said when a run goes on in another order, and what is
refused.

    python tests/program/two_level_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import trestle

PROGRAM = Path("trestle")
TWO_LEVELS = "gradients are summed in two levels, 2 hosts x 2 ranks"
OTHER_ORDER = "gradients are summed in another order from here on"


def unshare() -> list[str] | None:
    """The command that gives a program a host name of its own; None where this user has none."""
    for command in (["unshare", "--uts"], ["unshare", "--map-root-user", "--uts"]):
        try:
            subprocess.run([*command, "hostname", "probe"], check=True, capture_output=True)
            return command
        except (OSError, subprocess.CalledProcessError):
            continue
    return None


class TwoLevel(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        command = unshare()
        if command is None:
            raise unittest.SkipTest("no UTS namespaces for this user: one host only")
        cls.scratch = Path(cls.enterClassContext(
            tempfile.TemporaryDirectory(prefix="trestle-two-level-")))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.two_hosts = cls.scratch / "two_hosts"
        named = "hostname host-$((OMPI_COMM_WORLD_RANK % 2)) && exec \"$0\" \"$@\""
        cls.two_hosts.write_text(
            f"#!/bin/sh\nexec {' '.join(command)} sh -c '{named}' {PROGRAM} \"$@\"\n")
        cls.two_hosts.chmod(0o755)

    def train(self, program: Path, name: str, *sets: str) -> subprocess.CompletedProcess:
        arguments = [a for s in (f"data.path={self.data}", "sample.pictures=1", *sets)
                     for a in ("--set", s)]
        return trestle.run(program, "train", trestle.TINY, "--run-dir", self.scratch / name,
                           *arguments, ranks=4)

    def test_trains_as_in_one_level_and_says_a_change(self) -> None:
        steps = "train.steps=4"
        two = trestle.checked(self.train(self.two_hosts, "two", steps, "dist.paranoid=true",
                                         "dist.two_level=true"))
        self.assertIn(TWO_LEVELS, two.stderr)
        one = trestle.checked(self.train(PROGRAM, "one", steps))
        self.assertIn("gradients are summed in one level (all 4 ranks are on one host)", one.stderr)

        by_hosts = trestle.last_checkpoint(self.scratch / "two")
        in_order = trestle.last_checkpoint(self.scratch / "one")
        self.assertEqual(by_hosts.manifest["topology"],
                         {"host_of_rank": [0, 1, 0, 1], "levels": 2})
        self.assertEqual(in_order.manifest["topology"],
                         {"host_of_rank": [0, 0, 0, 0], "levels": 1})
        apart = trestle.distance(by_hosts.tensors("model/"), in_order.tensors("model/"))
        self.assertGreater(apart, 0, "the orders give the same bits: was it another order?")
        self.assertLess(apart, 5e-5)
        inspected = trestle.checked(trestle.run(PROGRAM, "inspect", by_hosts.folder)).stdout
        self.assertIn("2 hosts, gradients summed in two levels", inspected)

        again = trestle.checked(self.train(self.two_hosts, "two", "train.steps=5"))
        self.assertNotIn(OTHER_ORDER, again.stderr)
        changed = trestle.checked(self.train(self.two_hosts, "two", "train.steps=6",
                                             "dist.two_level=false"))
        self.assertIn(f"{OTHER_ORDER} (2 hosts x 2 ranks in two levels before, 4 ranks in one "
                      "level now)", changed.stderr)
        self.assertEqual(changed.stderr.count(OTHER_ORDER), 1)

    def test_refusals(self) -> None:
        codes, result = trestle.run_for_codes(
            PROGRAM, "train", trestle.TINY, "--run-dir", self.scratch / "refused", "--set",
            f"data.path={self.data}", "--set", "dist.two_level=true", ranks=4)
        self.assertEqual(codes, [4] * 4, result.stderr)
        self.assertIn("dist.two_level = true cannot be done here (all 4 ranks are on one host",
                      result.stderr)
        odd = trestle.run(PROGRAM, "validate", trestle.TINY, "--world", 5, "--set",
                          f"data.path={self.data}", "--set", "dist.two_level=true")
        self.assertEqual(odd.returncode, 2)
        self.assertIn("dist.two_level = true cannot be done by 5 ranks", odd.stderr)

    def plan(self, *arguments: object) -> dict:
        return json.loads(trestle.checked(trestle.run(
            PROGRAM, "plan", trestle.TINY, "--set", f"data.path={self.data}", "--world", 4,
            *arguments, "--json")).stdout)

    def test_a_plan_counts_what_hosts_send(self) -> None:
        together, apart = self.plan(), self.plan("--hosts", 2)
        one_level = self.plan("--hosts", 2, "--set", "dist.two_level=false")
        self.assertEqual([p["levels"] for p in (together, apart, one_level)], [1, 2, 1])
        for half in ("reduction", "gather"):
            self.assertEqual(together["sent_between_hosts_bytes"][half], 0)
            self.assertGreater(apart["sent_between_hosts_bytes"][half], 0)
            self.assertEqual(one_level["sent_between_hosts_bytes"][half],
                             2 * apart["sent_between_hosts_bytes"][half])
            # Of four ranks each sends three quarters of every tensor, either way.
            self.assertEqual(apart["sent_bytes"], one_level["sent_bytes"])
        shown = trestle.checked(trestle.run(PROGRAM, "plan", trestle.TINY, "--set",
                                            f"data.path={self.data}", "--world", 4, "--hosts", 2))
        self.assertIn("from each host to others: 2 hosts x 2 ranks, in two levels", shown.stdout)
        for words, arguments in (("--hosts 5 is more than --world 4", ("--hosts", 5)),
                                 ("--hosts", ("--hosts", 0))):
            wrong = trestle.run(PROGRAM, "plan", trestle.TINY, "--world", 4, *arguments)
            self.assertEqual(wrong.returncode, 2, wrong.stderr)
            self.assertIn(words, wrong.stderr)

    def test_bench_comm(self) -> None:
        for setting, levels in (("auto", 2), ("false", 1)):
            file, saved = self.scratch / f"{setting}.json", self.scratch / f"{setting}-saved.json"
            trestle.checked(trestle.run(
                self.two_hosts, "bench", "comm", "--max-bytes", "256KB", "--factor", "16",
                "--rounds", "2", "--two-level", setting, "--json", file, "--save", saved, ranks=4))
            plan = self.plan("--calibration", saved)  # and its two hosts
            self.assertEqual((plan["hosts"], plan["levels"]), (2, 2))
            problem = "no compute times" if levels == 2 else "of collectives in one level, and here"
            self.assertIn(problem, plan["why_no_time"])
            measured = json.loads(file.read_text())
            self.assertEqual(measured["levels"], levels)
            self.assertEqual({h["name"]: h["ranks"] for h in measured["hosts"]},
                             {"host-0": 2, "host-1": 2})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    options, rest = parser.parse_known_args()
    PROGRAM = options.trestle.resolve()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
