#!/usr/bin/env python3
"""A run directory belongs to one run at a time: a second live one is refused and changes nothing, a
killed one is replaced at once, and one that was stopped for too long finds its successor when it
goes on, and ends without a trace.

    python tests/fault/lease_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import os
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
ENVIRONMENT = 4
TIMEOUT_S = 3
MPIRUN = ("mpirun", "-n", "2", "--bind-to", "none")
LONG = ("train.steps=100000", "checkpoint.every=20")


def contents(run_dir: Path) -> dict[str, bytes]:
    """What stands in a run directory, but for what its holder renews all the time."""
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in sorted(run_dir.rglob("*"))
            if p.is_file() and "lease" not in p.name}


class Lease(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-lease-"))
        cls.data = trestle.make_data(cls.scratch / "data")

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def start(self, *sets: str, launcher: tuple[str, ...] = MPIRUN, **kwargs) -> trestle.Training:
        self.starts = getattr(self, "starts", 0) + 1
        run = trestle.Training(PROGRAM, self.scratch / self._testMethodName,
                               f"data.path={self.data}", f"run.lease_timeout_s={TIMEOUT_S}", *sets,
                               launcher=launcher, **kwargs,
                               output=self.scratch / f"{self._testMethodName}-{self.starts}.txt")
        self.addCleanup(self.end_all, run)
        return run

    @staticmethod
    def end_all(run: trestle.Training) -> None:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()

    def lease(self) -> dict:
        return json.loads((self.scratch / self._testMethodName / "lease.json").read_text())

    def restarts(self) -> list[dict]:
        file = self.scratch / self._testMethodName / "restarts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def expect_complete(self, run: trestle.Training, steps: int) -> None:
        """Every step once, and the end says so."""
        self.assertEqual(run.end(), 0, run.said())
        lines = [json.loads(s) for s in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines], list(range(steps)))
        self.assertTrue(self.lease()["ended"])

    def test_a_second_live_run_is_refused_on_every_rank_and_changes_nothing(self) -> None:
        # However slow the machine: only the lease is to end anything.
        first = self.start(*LONG, "dist.watchdog=false")
        first.wait_for_steps(25)
        for rank in first.ranks():  # so that nothing changes but what a second run might change
            rank.suspend()
        time.sleep(1)  # mpirun's ranks take a SIGCONT right after a stop for a notice
        before = contents(first.run_dir)
        # The holder must show that it lives, and does as soon as it goes on; its steps wait for
        # rank 1.
        first.ranks()[0].resume()
        codes, result = trestle.run_for_codes(
            PROGRAM, "train", trestle.TINY, "--run-dir", first.run_dir,
            *trestle.settings(f"data.path={self.data}", "run.lease_timeout_s=20", *LONG), ranks=2)
        said = result.stdout + result.stderr
        self.assertEqual(codes, [ENVIRONMENT, ENVIRONMENT], said)
        self.assertEqual(said.count("error: "), 1, said)
        holder = self.lease()["holder"]
        self.assertIn("is in use by a run that is alive", said)
        self.assertIn(f"host {holder['host']}, pid {holder['pid']}, 2 ranks, since ", said)
        self.assertIn(f"stop it (kill -USR2 {holder['pid']} on ", said)
        after = contents(first.run_dir)
        self.assertEqual(after.keys(), before.keys())
        changed = [name for name in after if after[name] != before[name]]
        self.assertLessEqual(set(changed), {"metrics.jsonl", "logs/rank-00000.log"})
        log = "logs/rank-00000.log"
        self.assertNotIn(b"==== start", after[log][len(before[log]):])
        self.assertEqual(holder["pid"], first.ranks()[0].pid)
        for rank in first.ranks():
            rank.resume()

    def test_a_killed_run_is_replaced_at_once(self) -> None:
        first = self.start(*LONG)
        first.wait_for_steps(25)
        for rank in first.ranks():
            rank.kill()
        first.end()
        started = time.monotonic()
        again = self.start("train.steps=60", "run.lease_timeout_s=600")
        self.expect_complete(again, 60)
        self.assertLess(time.monotonic() - started, 120)
        self.assertIn("is dead", again.said())
        events = self.restarts()
        self.assertEqual([e["event"] for e in events if e["epoch"] == 2], ["start", "end"])
        self.assertEqual(events[-1]["code"], 0)
        self.assertGreaterEqual(events[-2]["from_step"], 20)
        metrics = (again.run_dir / "metrics.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(metrics[n])["restarts"] for n in (0, -1)], [0, 1])
        manifest = trestle.last_checkpoint(again.run_dir).manifest
        self.assertEqual(manifest["epoch"], 2)
        for rank in range(2):
            log = (again.run_dir / "logs" / f"rank-{rank:05}.log").read_text()
            for start in (1, 2):
                self.assertEqual(log.count(f"==== start {start}: rank {rank} of 2 on "), 1)

    def test_a_stopped_run_is_replaced_and_ends_without_a_trace_when_it_goes_on(self) -> None:
        first = self.start(*LONG, "dist.watchdog=false")
        first.wait_for_steps(25)
        ranks = first.ranks()
        for rank in ranks:
            rank.suspend()
        steps_before = first.steps()
        started = time.monotonic()
        again = self.start("train.steps=60")
        self.expect_complete(again, max(60, steps_before))
        self.assertGreaterEqual(time.monotonic() - started, TIMEOUT_S)
        self.assertIn("without one", again.said())
        self.assertIn("is taken over from host", again.said())
        before = contents(first.run_dir)
        for rank in ranks:
            rank.resume()
        self.assertEqual(first.process.wait(60), ENVIRONMENT)
        after = contents(first.run_dir)
        said = "".join(log.read_text() for log in (first.run_dir / "logs").glob("rank-*.log"))
        self.assertIn("was taken over by another run", said)
        self.assertIn("epoch 2 after this run's 1", said)
        self.assertIn("exit code 4", said)
        changed = [name for name in after if after[name] != before.get(name)]
        self.assertLessEqual(set(changed), {"logs/rank-00000.log", "logs/rank-00001.log"})
        self.assertEqual(after.keys(), before.keys())
        self.assertEqual(self.lease()["epoch"], 2)
        self.assertTrue(self.lease()["ended"])

    def test_a_stop_ends_the_wait(self) -> None:
        first = self.start(*LONG)
        first.wait_for_steps(5)
        for rank in first.ranks():
            rank.suspend()
        again = self.start("train.steps=60", "run.lease_timeout_s=600", "dist.watchdog=false")
        trestle.wait_until(lambda: "watching its heartbeat" in again.said(), "the wait")
        time.sleep(0.5)
        psutil.Process(again.process.pid).send_signal(signal.SIGUSR2)
        self.assertEqual(again.end(), 75, again.said())
        self.assertEqual(self.lease()["epoch"], 1)

    def test_a_requeued_job_takes_over_at_once(self) -> None:
        def slurm(restart: int) -> dict[str, str]:
            return {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restart)}
        first = self.start(*LONG, launcher=(), environment=slurm(0))
        first.wait_for_steps(25)
        again = self.start("train.steps=60", "run.lease_timeout_s=600", launcher=(),
                           environment=slurm(1))
        self.assertEqual(again.end(), 0, again.said())
        self.assertIn("was this job before its requeue", again.said())
        self.assertEqual(first.process.wait(60), ENVIRONMENT)
        self.assertEqual(trestle.last_checkpoint(again.run_dir).manifest["epoch"], 2)
        self.assertEqual(self.restarts()[-1]["epoch"], 2)

    def test_a_verdict_is_remembered(self) -> None:
        run = self.start("train.steps=100", options=("--inject", "kill@rank1:step6"))
        run.end()
        self.assertEqual(self.restarts()[-1]["code"], 7)
        self.assertIn("rank 1", self.restarts()[-1]["reason"])
        again = self.start("train.steps=20")
        self.expect_complete(again, 20)
        self.assertIn("the last one: exit code 7", again.said())


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
