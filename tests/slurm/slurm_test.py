#!/usr/bin/env python3
"""Runs live in a real Slurm: the batch scripts of slurm/, on three nodes on this machine.

    python tests/slurm/slurm_test.py --trestle build/release/launch/trestle [--further | TEST...]

A run that Slurm signals saves, is requeued, resumes, and ends with the bits of one that was never
stopped; a cancelled one stays cancelled; a node that fails costs the steps since the last save.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import unittest
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402
from cluster import Cluster, wait_for, why_not  # noqa: E402

PROGRAM = Path("trestle")
SLURM = trestle.ROOT / "slurm"
QUICKSTART = trestle.ROOT / "configs" / "recipes" / "quickstart.toml"
STEPS = 120


class Job:
    """A training on two nodes with two ranks each, by one of the scripts."""

    def __init__(self, cluster: Cluster, name: str, data: Path, *sets: str,
                 script: str = "train.sbatch", options: tuple[str, ...] = (),
                 arguments: tuple[str, ...] = (), recipe: Path = trestle.TINY, steps: int = STEPS,
                 environment: dict[str, str] | None = None):
        self.cluster = cluster
        self.run_dir = cluster.folder / "runs" / name
        self.log = cluster.folder / f"{name}.log"
        settings = trestle.settings(f"data.path={data}", f"train.steps={steps}",
                                    "checkpoint.every=0", *sets)
        self.id: object = cluster.sbatch(
            "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=10",
            f"--output={self.log}", *options, SLURM / script, recipe, *arguments,
            "--run-dir", self.run_dir, *settings,
            environment={**trestle.MPI_ENVIRONMENT, "TRESTLE_ROOT": str(trestle.ROOT),
                         "TRESTLE_PROGRAM": str(PROGRAM), **(environment or {})})

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else "(no log)"

    def steps(self) -> int:
        metrics = self.run_dir / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def wait_for_steps(self, steps: int) -> None:
        self._wait(lambda: self.steps() >= steps, f"step {steps}")

    def wait_for_words(self, words: str, times: int = 1, seconds: float = 240) -> None:
        self._wait(lambda: self.said().count(words) >= times, f"{words!r}", seconds)

    def _wait(self, condition, what: str, seconds: float = 240) -> None:
        try:
            wait_for(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def end(self, state: str, seconds: float = 240) -> None:
        """Waits for the job's last state."""
        try:
            self.cluster.wait_for_state(self.id, state, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def ranks(self) -> dict[int, psutil.Process]:
        """The trestle processes, by rank."""
        found = {}
        for process in self.cluster.processes():
            try:
                if process.name() == "trestle" and str(self.run_dir) in process.cmdline():
                    variables = process.environ()
                    found[int(variables.get("OMPI_COMM_WORLD_RANK")
                              or variables["PMIX_RANK"])] = process
            except psutil.Error:
                continue
        return found

    def history(self) -> list[list[str]]:
        """Lines of slurm/history.tsv: time, job, restart, event, code, step, note."""
        text = (self.run_dir / "slurm" / "history.tsv").read_text()
        return [line.split("\t") for line in text.splitlines()]

    def events(self) -> list[tuple[str, str]]:
        """Event and code of each line."""
        return [(line[3], line[4]) for line in self.history()]


@unittest.skipIf(why_not(), why_not())
class OnThreeNodes(unittest.TestCase):
    cluster: Cluster

    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = cls.enterClassContext(Cluster(nodes=3))
        cls.data = trestle.make_data(cls.cluster.folder / "data")
        cls.whole = cls.job_of_class("uninterrupted")

    @classmethod
    def job_of_class(cls, name: str, *sets: str, **kwargs) -> Job:
        return Job(cls.cluster, name, cls.data, *sets, **kwargs)

    def job(self, *sets: str, **kwargs) -> Job:
        return Job(self.cluster, self._testMethodName, self.data, *sets, **kwargs)

    def expect_equal(self, job: Job, whole: Job | None = None) -> None:
        """The same weights, averages, moments and losses as the uninterrupted run's."""
        whole = whole or self.whole
        whole.end("COMPLETED")
        mine = trestle.last_checkpoint(job.run_dir).tensors("")
        expected = trestle.last_checkpoint(whole.run_dir).tensors("")
        self.assertEqual(mine.keys(), expected.keys())
        for name, value in expected.items():
            np.testing.assert_array_equal(mine[name], value, err_msg=name)
        np.testing.assert_array_equal(trestle.losses(job.run_dir), trestle.losses(whole.run_dir))

    def expect_requeued_and_equal(self, job: Job, whole: Job | None = None) -> None:
        job.end("COMPLETED")
        self.assertEqual(job.events(), [("start", "-"), ("requeued", "75"), ("start", "-"),
                                        ("ended", "0")], job.said())
        self.assertEqual(self.cluster.restarts(job.id), 1)
        self.assertIn("resumed from", job.said())
        self.expect_equal(job, whole)


class InSlurm(OnThreeNodes):
    def test_a_signalled_job_is_requeued_and_resumes_to_the_same_bits(self) -> None:
        job = self.job()
        job.wait_for_steps(5)
        self.cluster.signal_job(job.id, signal.SIGUSR2)
        self.expect_requeued_and_equal(job)
        start = job.history()[2]
        self.assertGreaterEqual(int(start[5]), 5)  # where the second start began

    def test_a_cancelled_job_is_saved_and_stays_cancelled(self) -> None:
        job = self.job()
        job.wait_for_steps(5)
        self.cluster.run("scancel", job.id)
        job.end("CANCELLED")
        self.assertEqual(job.events(), [("start", "-"), ("ended", "75")], job.said())
        self.assertIn("stopped by SIGTERM", job.said())
        self.assertIn("and is left so", job.said())
        saved = trestle.last_checkpoint(job.run_dir)
        self.assertEqual(saved.folder.name, f"step-{job.steps():08}")
        time.sleep(8)  # longer than a requeued job waits
        self.assertEqual(self.cluster.state(job.id), "CANCELLED")
        self.assertEqual(self.cluster.restarts(job.id), 0)

    def test_the_signal_may_come_to_the_batch_shell_alone(self) -> None:
        job = self.job(script="train_batch_signal.sbatch")
        job.wait_for_steps(5)
        self.cluster.run("scancel", "--batch", "--signal=USR2", job.id)
        self.expect_requeued_and_equal(job)

    def test_mpirun_inside_the_job(self) -> None:
        job = self.job(script="train_mpirun.sbatch")
        job.wait_for_steps(5)
        self.cluster.run("scancel", "--batch", "--signal=USR2", job.id)
        self.expect_requeued_and_equal(job)

    def test_doctor_under_srun(self) -> None:
        folder = self.cluster.folder
        script, report = folder / "doctor.sbatch", folder / "doctor.json"
        script.write_text("#!/bin/bash\nexec srun --mpi=pmix --cpus-per-task=1 "
                          f"'{PROGRAM}' doctor --run-dir '{folder}/runs/doctor' --json\n")
        job = self.cluster.sbatch("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1",
                                  f"--output={report}", f"--error={folder}/doctor.err", script,
                                  environment={**trestle.MPI_ENVIRONMENT})
        self.cluster.wait_for_state(job, "COMPLETED")
        checks = {c["check"]: c for c in json.loads(report.read_text())["checks"]}
        self.assertIn("4 ranks, started by srun", checks["ranks"]["value"])
        self.assertEqual(checks["ranks"]["health"], "ok", checks["ranks"])
        self.assertIn("22.05", checks["slurm"]["value"])

    def test_each_task_of_a_sweep_is_requeued_by_itself(self) -> None:
        settings = self.cluster.folder / "settings.txt"
        settings.write_text("# two of them\n\nrun.seed=5\nrun.seed=6 optim.learning_rate=1e-4\n")
        job = self.job(script="sweep.sbatch", options=("--array=1-2", "--nodes=1"),
                       arguments=(str(settings),))
        tasks = [job.run_dir / str(i) for i in (1, 2)]
        job.run_dir = tasks[1]  # the last task's number is the whole array's
        job.wait_for_steps(5)
        self.cluster.signal_job(f"{job.id}_2", signal.SIGUSR2)
        for i in (1, 2):
            self.cluster.wait_for_state(f"{job.id}_{i}", "COMPLETED")
        self.assertEqual(job.events(), [("start", "-"), ("requeued", "75"), ("start", "-"),
                                        ("ended", "0")], job.said())
        job.run_dir = tasks[0]
        self.assertEqual(job.events(), [("start", "-"), ("ended", "0")], job.said())
        recipes = [(task / "recipe.resolved.toml").read_text() for task in tasks]
        self.assertIn("seed = 5", recipes[0])
        self.assertIn("seed = 6", recipes[1])
        self.assertIn("learning_rate = 0.0001", recipes[1])

    def test_the_run_asks_for_its_end_and_stops_in_time(self) -> None:
        # Slurm signals nobody here; three minutes are the job's limit, and the run leaves when
        # two and a half of them are left.
        job = self.job("train.stop_before_end_s=170", steps=100_000,
                       options=("--time=3", "--signal=URG@1"))
        job.wait_for_words("requeue.sh: requeued (exit code 75")
        self.assertIn("and the run stops now (train.stop_before_end_s = 170)", job.said())
        self.assertIn("stopped by the job's time limit", job.said())
        # A longer limit counts: the second start would run for ever.
        self.cluster.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")
        job.wait_for_words("resumed from")
        job.wait_for_steps(job.steps() + 50)
        self.assertEqual(self.cluster.state(job.id), "RUNNING")
        self.cluster.run("scancel", job.id)
        job.end("CANCELLED")

    def test_a_lost_rank_costs_the_machine_it_was_on(self) -> None:
        job = self.job("checkpoint.every=10")
        job.wait_for_steps(15)
        hosts = {rank: process.environ()["SLURMD_NODENAME"]
                 for rank, process in job.ranks().items()}
        self.assertEqual(hosts[3], job_nodes(self.cluster, job)[1])
        job.ranks()[3].kill()
        job.wait_for_words("requeue.sh: requeued (exit code 137")
        self.assertIn(f"rank 3 (host {hosts[3]})", job.said())
        self.assertEqual((job.run_dir / "slurm" / "excluded_hosts").read_text(), f"{hosts[3]}\n")
        self.assertEqual(self.cluster.field(job.id, "ExcNodeList"), hosts[3])
        job.end("COMPLETED")
        self.assertNotIn(hosts[3], job.history()[2][6])
        self.expect_equal(job)

    def test_a_node_that_fails(self) -> None:
        # Steps so slow that the run is not over when Slurm notices, which takes half a minute.
        job = self.job("checkpoint.every=10", arguments=("--inject", "slow=30x@rank0"))
        job.wait_for_steps(15)
        lost = job_nodes(self.cluster, job)[1]
        before = set(job.ranks().values())
        self.cluster.kill_slurmd(lost)
        try:
            # Slurm takes the node for dead though its ranks live, and starts the job elsewhere.
            job.wait_for_words("resumed from")
            after = job.ranks().values()
            self.assertEqual({p for p in before if p.is_running()} & set(after), set(),
                             "ranks of the first start are still there")
            job.end("COMPLETED")
        finally:
            self.cluster.start_node(lost)
        self.assertNotIn(lost, job_nodes(self.cluster, job))
        self.expect_equal(job)


class FurtherInSlurm(OnThreeNodes):
    """What takes long, or differs little from what CI runs."""

    def test_the_quickstart_signalled(self) -> None:
        pictures = trestle.make_data(self.cluster.folder / "pictures", size=64)
        both = [Job(self.cluster, name, pictures, recipe=QUICKSTART, steps=40)
                for name in ("quickstart", "quickstart_signalled")]
        both[1].wait_for_steps(5)
        self.cluster.signal_job(both[1].id, signal.SIGUSR2)
        self.expect_requeued_and_equal(both[1], both[0])

    def test_a_preempted_job_makes_room_and_goes_on(self) -> None:
        self.whole.end("COMPLETED")  # it would be preempted, too
        job = self.job()
        job.wait_for_steps(5)
        urgent = self.cluster.sbatch("--partition=urgent", "--nodes=3", "--exclusive",
                                     f"--output={self.cluster.folder}/urgent.log",
                                     "--wrap", "sleep 1")
        self.expect_requeued_and_equal(job)
        self.assertIn("stopped by SIGTERM", job.said())
        self.cluster.wait_for_state(urgent, "COMPLETED")

    def test_a_node_that_was_taken_for_dead_lives_on(self) -> None:
        # The first one, with the batch script, rank 0 and its lease of the run directory. Its ranks
        # hear nothing until the next start has saved.
        job = self.job("checkpoint.every=10", "dist.silence_timeout_s=5")
        job.wait_for_steps(15)
        node = job_nodes(self.cluster, job)[0]
        lost = [job.ranks()[rank] for rank in (0, 1)]
        self.cluster.kill_slurmd(node)
        for process in lost:
            process.suspend()
        try:
            job.wait_for_words("resumed from")
            job.wait_for_words("saved step 20")
            for process in lost:
                process.resume()
            wait_for(lambda: not any(map(lives, lost)), "the first start's ranks to leave")
            # Slurm may end the new start's step when the old one's, which has the same number, is
            # over; then the job is requeued once more.
            job.end("COMPLETED")
        finally:
            self.cluster.start_node(node)
        self.assertIn("Slurm has started the job again meanwhile", job.said())
        self.assertGreaterEqual(trestle.last_checkpoint(job.run_dir).manifest["epoch"], 2)
        self.expect_equal(job)

    def test_mpirun_inside_the_job_signalled_by_step_and_cancelled(self) -> None:
        job = self.job(script="train_mpirun.sbatch")
        job.wait_for_steps(5)
        self.cluster.signal_job(job.id, signal.SIGUSR2)
        job.wait_for_words("requeue.sh: requeued (exit code 75")
        steps = job.steps()
        job.wait_for_steps(steps + 5)
        self.cluster.run("scancel", job.id)
        job.end("CANCELLED")
        self.assertEqual(job.events(), [("start", "-"), ("requeued", "75"), ("start", "-"),
                                        ("ended", "1")], job.said())  # mpirun's own code
        saved = trestle.last_checkpoint(job.run_dir)
        self.assertEqual(saved.folder.name, f"step-{job.steps():08}")

    def test_the_time_limit_ends_a_start_but_not_the_run(self) -> None:
        # Slurm looks twice a minute whose time is nearly over, so the signal comes within a minute.
        job = self.job("train.stop_before_end_s=0", steps=100_000,
                       options=("--time=2", "--signal=USR2@100"))
        job.wait_for_words("requeue.sh: requeued (exit code 75")
        self.assertIn("stopped by SIGUSR2", job.said())
        job.wait_for_words("resumed from")
        self.cluster.run("scancel", job.id)
        job.end("CANCELLED")

    def test_a_rank_that_hangs_again_is_not_waited_for_twice(self) -> None:
        # It hangs at step 25 of every start; the second one begins where the first had saved.
        job = self.job("checkpoint.every=10", "dist.step_timeout_s=3",
                       arguments=("--inject", "hang@rank3:step25"))
        job.end("FAILED")
        self.assertEqual(job.events(), [("start", "-"), ("requeued", "7"), ("start", "-"),
                                        ("ended", "7")], job.said())
        self.assertIn("nothing new was saved since the start at step 20", job.said())
        excluded = (job.run_dir / "slurm" / "excluded_hosts").read_text().split()
        self.assertEqual(len(excluded), 1)
        self.assertEqual(len(set(job_nodes(self.cluster, job)) & set(excluded)), 0)

    def test_a_wrong_recipe_is_not_requeued(self) -> None:
        job = self.job("train.stepz=3")
        job.end("FAILED")
        self.assertEqual(job.events(), [("start", "-"), ("ended", "2")], job.said())
        self.assertEqual(self.cluster.field(job.id, "ExitCode"), "2:0")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def job_nodes(cluster: Cluster, job: Job) -> list[str]:
    """The machines of a job, by rank."""
    return cluster.run("scontrol", "show", "hostnames",
                       cluster.field(job.id, "NodeList")).split()


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    names = sys.argv[1:]
    if names == ["--further"]:
        names = ["FurtherInSlurm"]
    unittest.main(argv=[sys.argv[0], *(names or ["InSlurm"])], verbosity=2)
