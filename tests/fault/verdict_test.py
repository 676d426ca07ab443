#!/usr/bin/env python3
"""A rank that dies, hangs, loses step or is slow is named in one sentence, and the run ends with
the documented code on every rank, in time, with its flight rings on disk and no process left.

Faults come from `--inject` and from outside (kill -9, SIGSTOP). What each rank ended with stands in
the last line of its log.

    python tests/fault/verdict_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

PROGRAM = Path("trestle")
RANKS = 3
STEP_TIMEOUT_S = 4
STEPS = 100000  # a run that nothing ends
PEER = 7
MPIRUN = ("mpirun", "-n", str(RANKS), "--bind-to", "none")


class Run(trestle.Training):
    """On several ranks, with faults."""

    def __init__(self, run_dir: Path, data: Path, *sets: str, inject: tuple[str, ...] = (),
                 steps: int = STEPS, launcher: tuple[str, ...] = MPIRUN):
        super().__init__(PROGRAM, run_dir, f"data.path={data}", f"train.steps={steps}",
                         "checkpoint.every=4", f"dist.step_timeout_s={STEP_TIMEOUT_S}", *sets,
                         launcher=launcher,
                         options=tuple(a for fault in inject for a in ("--inject", fault)))

    def last_line(self, rank: int) -> str:
        """Of its log, without the time."""
        lines = (self.run_dir / "logs" / f"rank-{rank:05}.log").read_text().splitlines()
        return lines[-1].split(" ", 2)[2]

    def verdict(self) -> dict:
        return json.loads((self.run_dir / "verdict.json").read_text())

    def flight(self, rank: int) -> list[dict]:
        lines = (self.run_dir / "logs" / f"flight-{rank:05}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


class Verdicts(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-verdict-"))
        cls.data = trestle.make_data(cls.scratch / "data")

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def start(self, *sets: str, name: str = "", **kwargs) -> Run:
        return Run(self.scratch / (self._testMethodName + name), self.data, *sets, **kwargs)

    def expect_verdict(self, run: Run, kind: str, rank: int, survivors: list[int]) -> dict:
        """One verdict, printed once; every survivor left with code 7 and its ring on disk."""
        verdict = run.verdict()
        self.assertEqual((verdict["kind"], verdict["rank"]), (kind, rank), run.said())
        self.assertEqual(verdict["host"], os.uname().nodename)
        self.assertEqual(verdict["code"], PEER)
        self.assertIn(f"rank {rank} (host {verdict['host']})", verdict["sentence"])
        self.assertEqual(run.said().count(verdict["sentence"]), 1, run.said())
        for survivor in survivors:
            self.assertEqual(run.last_line(survivor), f"exit code {PEER}", run.said())
            ring = run.flight(survivor)
            self.assertTrue(any(entry["phase"] == "step" for entry in ring))
            self.assertTrue(all({"sequence", "kind", "name", "bytes"} <= e.keys() for e in ring))
        leftovers = list(run.run_dir.glob("verdict.json.*"))
        self.assertEqual(leftovers, [])
        return verdict

    def expect_nobody_left(self, processes: list[psutil.Process]) -> None:
        def is_alive(process: psutil.Process) -> bool:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

        trestle.wait_until(lambda: not any(map(is_alive, processes)), "the processes to end", 10)

    def expect_resumable(self, run: Run) -> None:
        """The same command, without the fault, goes on from the last checkpoint."""
        sentence = run.verdict()["sentence"]
        again = Run(run.run_dir, self.data, steps=run.steps() + 3)
        self.assertEqual(again.end(), 0, again.said())
        self.assertIn("resumed from", again.said())
        self.assertIn(sentence, again.said())
        self.assertFalse((run.run_dir / "verdict.json").exists())
        for rank in range(RANKS):
            self.assertEqual(again.last_line(rank), "exit code 0")

    def test_hang(self) -> None:
        run = self.start(inject=("hang@rank1:step6",))
        run.wait_for_steps(6)
        started = time.monotonic()
        ranks = run.ranks()
        self.assertEqual(run.end(), PEER, run.said())
        took = time.monotonic() - started
        self.assertLess(took, STEP_TIMEOUT_S + 10)
        self.assertGreater(took, STEP_TIMEOUT_S - 1)
        verdict = self.expect_verdict(run, "stalled", 1, [0, 1, 2])
        self.assertEqual(verdict["step"], 6)
        self.assertIn("step 6: rank 1", verdict["sentence"])
        self.assertIn("never arrived at", verdict["sentence"])
        self.assertIn("2 ranks wait since", verdict["sentence"])
        self.expect_nobody_left(ranks)
        print(f"hang: {took:.1f} s; {verdict['sentence']}")
        self.expect_resumable(run)

    def test_kill_each_rank(self) -> None:
        for victim in range(RANKS):
            with self.subTest(victim=victim):
                run = self.start(name=f"-{victim}", inject=(f"kill@rank{victim}:step6",))
                run.wait_for_steps(6)
                self.assertEqual(run.end(10), 128 + signal.SIGKILL, run.said())
                survivors = [r for r in range(RANKS) if r != victim]
                verdict = self.expect_verdict(run, "died", victim, survivors)
                self.assertIn(verdict["step"], (5, 6))  # as far as the others had come
                print(verdict["sentence"])
        self.expect_resumable(run)

    def test_a_death_is_noticed_within_a_second(self) -> None:
        for victim in range(RANKS):
            with self.subTest(victim=victim):
                run = self.start(name=f"-{victim}")
                run.wait_for_steps(5)
                ranks = run.ranks()
                started = time.monotonic()
                ranks[victim].kill()
                trestle.wait_until((run.run_dir / "verdict.json").exists, "the verdict", 10)
                took = time.monotonic() - started
                self.assertLess(took, 1)
                self.assertEqual(run.end(10), 128 + signal.SIGKILL, run.said())
                self.expect_verdict(run, "died", victim, [r for r in range(RANKS) if r != victim])
                self.expect_nobody_left(ranks)
                print(f"rank {victim} killed: verdict after {took:.2f} s, all over after "
                      f"{time.monotonic() - started:.2f} s")

    def test_signals_around_a_death_are_no_preemption(self) -> None:
        for number in (signal.SIGTERM, signal.SIGCONT):
            for when in ("before", "after"):
                with self.subTest(f"{number.name} {when}"):
                    run = self.start(name=f"-{number.name}-{when}")
                    run.wait_for_steps(5)
                    ranks = run.ranks()
                    others = [ranks[0], ranks[2]]
                    if when == "after":
                        ranks[1].kill()
                    for rank in others:
                        rank.send_signal(number)
                    if when == "before":
                        ranks[1].kill()
                    self.assertNotEqual(run.end(10), 75, run.said())
                    self.expect_verdict(run, "died", 1, [0, 2])
                    self.expect_nobody_left(ranks)

    def test_a_stopped_rank_is_gone(self) -> None:
        run = self.start("dist.silence_timeout_s=2", "dist.step_timeout_s=60")
        run.wait_for_steps(5)
        ranks = run.ranks()
        started = time.monotonic()
        ranks[1].suspend()
        run.end(2 + 10)
        took = time.monotonic() - started
        verdict = self.expect_verdict(run, "died", 1, [0, 2])
        self.assertIn("silent", verdict["sentence"])
        self.expect_nobody_left(ranks)
        print(f"stopped: {took:.1f} s; {verdict['sentence']}")

    def test_desync(self) -> None:
        run = self.start(inject=("desync@rank1:step6",))
        run.wait_for_steps(2)
        ranks = run.ranks()  # as long as they live: this fault is seen at once
        run.wait_for_steps(6)
        started = time.monotonic()
        self.assertEqual(run.end(STEP_TIMEOUT_S + 10), PEER, run.said())
        verdict = self.expect_verdict(run, "desync", 1, [0, 1, 2])
        self.assertEqual(verdict["step"], 6)
        self.assertIn("barrier", verdict["op"])
        self.assertRegex(verdict["sentence"], r"rank 1 \(.*\) \S+ barrier .*, rank 0 \(.*\) and 1 "
                                              r"more \(rank 2\) \S+ reduce_scatter")
        self.expect_nobody_left(ranks)
        print(f"desync: {time.monotonic() - started:.1f} s; {verdict['sentence']}")
        self.expect_resumable(run)

    def test_nan(self) -> None:
        run = self.start("train.on_nonfinite=stop", inject=("nan@rank1:step6",))
        self.assertEqual(run.end(), 6, run.said())
        self.assertRegex(run.said(), r"rank 1: step 6: the gradient of \S+ is not finite")
        for rank in range(RANKS):
            self.assertEqual(run.last_line(rank), "exit code 6")
        self.assertFalse((run.run_dir / "verdict.json").exists())

    def test_slow_rank_in_turn(self) -> None:
        for slow in range(RANKS):
            with self.subTest(slow=slow):
                run = self.start("checkpoint.every=0", "dist.straggler_every=20",
                                 "train.global_batch=36", name=f"-{slow}",
                                 inject=(f"slow=2x@rank{slow}",), steps=61)
                self.assertEqual(run.end(), 0, run.said())
                named = re.findall(r"warning: rank (\d+) \(host (\S+)\) is slow: .*takes ([\d.]+) ",
                                   run.said())
                # More ranks than cores take turns, so that another may look slow, too; but less.
                factors = {rank: max(float(f) for r, _, f in named if int(r) == rank)
                           for rank in {int(r) for r, _, _ in named}}
                self.assertIn(slow, factors, run.said())
                self.assertEqual(max(factors, key=factors.get), slow, run.said())
                self.assertEqual(named[0][1], os.uname().nodename)
                print(f"rank {slow} twice as slow: named as {factors[slow]} times")

    def test_flight_rings_on_request(self) -> None:
        run = self.start()
        run.wait_for_steps(5)
        family = psutil.Process(run.process.pid)
        family.send_signal(signal.SIGUSR1)  # mpirun passes it on
        for rank in range(RANKS):
            ring = run.run_dir / "logs" / f"flight-{rank:05}.jsonl"
            trestle.wait_until(ring.exists, "a ring", 10)
            entries = run.flight(rank)
            self.assertTrue(any(e["finished_s"] is not None for e in entries))
        run.wait_for_steps(run.steps() + 3)  # and it goes on
        family.send_signal(signal.SIGUSR2)
        self.assertEqual(run.end(), 75, run.said())
        for rank in range(RANKS):
            self.assertEqual(run.last_line(rank), "exit code 75")

    def test_one_rank_alone(self) -> None:
        run = self.start("dist.step_timeout_s=2", launcher=(), inject=("hang@rank0:step3",))
        self.assertEqual(run.end(30), PEER, run.said())
        self.assertEqual(run.verdict()["step"], 3)
        self.assertEqual(run.last_line(0), f"exit code {PEER}")
        self.assertIn("rank 0", run.verdict()["sentence"])

    def test_faults_that_are_none(self) -> None:
        for spec, said in (("hagn@rank0:step1", 'did you mean "hang"'),
                           ("hang@rank0", '":step" is missing'),
                           ("hang@rank5:step1", "the run has 1 ranks")):
            run = self.start(launcher=(), inject=(spec,))
            self.assertEqual(run.end(), 2, run.said())
            self.assertIn(said, run.said())


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
