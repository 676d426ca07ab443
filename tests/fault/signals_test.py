#!/usr/bin/env python3
"""A signal stops a run after the current step, saved, with exit code 75 on every rank, whoever
receives it: a script that started mpirun, mpirun itself, or one rank. And nothing is lost: the
resumed run equals one that was never stopped, bit by bit.

    python tests/fault/signals_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

PROGRAM = Path("trestle")
STEPS = 400
STOPPED = 75

# What a user's own script looks like: launch/common.sh passes its signals on.
SCRIPT = f"""
set -euo pipefail
source {trestle.ROOT}/launch/common.sh
run_ranks 2 "$@"
"""

class Run(trestle.Training):
    """Saves nothing before it is over or told to stop."""

    def __init__(self, run_dir: Path, data: Path, *sets: str, **kwargs):
        super().__init__(PROGRAM, run_dir, f"data.path={data}", f"train.steps={STEPS}",
                         "checkpoint.every=0", *sets, **kwargs)

    def mpirun(self) -> psutil.Process:
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        return next(p for p in family if p.name() in ("mpirun", "orterun"))


MPIRUN = ("mpirun", "-n", "2", "--bind-to", "none")


class Signals(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-signals-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.uninterrupted = cls.scratch / "uninterrupted"
        run = Run(cls.uninterrupted, cls.data, launcher=MPIRUN)
        assert run.end() == 0, run.said()

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    def start(self, *sets: str, launcher: tuple[str, ...] = MPIRUN, **kwargs) -> Run:
        return Run(self.scratch / self._testMethodName, self.data, *sets, launcher=launcher,
                   **kwargs)

    def expect_stopped_and_saved(self, run: Run) -> int:
        """Exit code 75, and a whole checkpoint of the step that metrics.jsonl ends with."""
        self.assertEqual(run.end(), STOPPED, run.said())
        self.assertIn("the same command goes on from there", run.said())
        steps = run.steps()
        self.assertGreater(steps, 0)
        self.assertLess(steps, STEPS, "the run was over before the signal")
        saved = trestle.last_checkpoint(run.run_dir)
        self.assertEqual(saved.folder.name, f"step-{steps:08}")
        verified = trestle.run(PROGRAM, "inspect", saved.folder, "--verify")
        self.assertEqual(verified.returncode, 0, verified.stderr)
        return steps

    def expect_equal_after_resuming(self, run: Run) -> None:
        again = Run(run.run_dir, self.data, launcher=MPIRUN)
        self.assertEqual(again.end(), 0, again.said())
        self.assertIn("resumed from", again.said())
        resumed = trestle.last_checkpoint(run.run_dir).tensors("")
        whole = trestle.last_checkpoint(self.uninterrupted).tensors("")
        self.assertEqual(resumed.keys(), whole.keys())
        for name, value in whole.items():
            np.testing.assert_array_equal(resumed[name], value, err_msg=name)
        np.testing.assert_array_equal(trestle.losses(run.run_dir),
                                      trestle.losses(self.uninterrupted))

    def test_sigterm_to_a_script_and_the_resumed_run_is_the_same(self) -> None:
        run = self.start(launcher=("bash", "-c", SCRIPT, "script"))
        run.wait_for_steps(5)
        run.process.send_signal(signal.SIGTERM)
        self.expect_stopped_and_saved(run)
        self.assertNotIn("to stop:", run.said())
        self.expect_equal_after_resuming(run)

    def test_ctrl_c_at_a_script(self) -> None:
        # A terminal sends SIGINT to every process of the group.
        run = self.start(launcher=("bash", "-c", SCRIPT, "script"))
        run.wait_for_steps(5)
        os.killpg(run.process.pid, signal.SIGINT)
        self.expect_stopped_and_saved(run)

    def test_signals_to_mpirun(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            with self.subTest(number.name):
                ended = self.scratch / f"ended-{number.name}"
                ended.mkdir()
                run = Run(self.scratch / f"mpirun-{number.name}", self.data,
                          launcher=(*MPIRUN, *trestle.WITNESS),
                          # mpirun's patience, so that a busy machine is not what is tested.
                          environment={"ENDED": str(ended),
                                       "OMPI_MCA_odls_base_sigkill_timeout": "5"})
                run.wait_for_steps(5)
                self.assertIn("to stop: kill -USR2", run.said())
                run.mpirun().send_signal(number)
                code = run.end()
                codes = {p.name: p.read_text().strip() for p in ended.iterdir()}
                self.assertEqual(codes, {"0": "75", "1": "75"}, run.said())
                steps = run.steps()
                saved = trestle.last_checkpoint(run.run_dir)
                self.assertEqual(saved.folder.name, f"step-{steps:08}")
                print(f"{number.name} to mpirun: it exits {code}, each rank 75, at step {steps}")

    def test_sigterm_to_one_rank_and_again_and_again(self) -> None:
        run = self.start()
        run.wait_for_steps(5)
        rank = run.ranks()[1]
        for _ in range(200):
            try:
                rank.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.002)
        self.expect_stopped_and_saved(run)
        self.expect_equal_after_resuming(run)

    def test_sigcont_is_a_notice_under_mpirun(self) -> None:
        run = self.start()
        run.wait_for_steps(5)
        run.ranks()[0].send_signal(signal.SIGCONT)
        self.expect_stopped_and_saved(run)

    def test_sigcont_after_a_stop_means_go_on(self) -> None:
        run = self.start()
        run.wait_for_steps(3)
        ranks = run.ranks()
        for rank in ranks:
            rank.suspend()
        time.sleep(1.5)
        for rank in ranks:
            rank.resume()
        self.assertEqual(run.end(), 0, run.said())
        self.assertEqual(run.steps(), STEPS)

    def test_sigcont_without_mpirun_means_nothing_and_sigterm_does(self) -> None:
        run = self.start(launcher=())
        run.wait_for_steps(3)
        run.process.send_signal(signal.SIGCONT)
        run.wait_for_steps(run.steps() + 3)
        run.process.send_signal(signal.SIGTERM)
        self.expect_stopped_and_saved(run)

    def test_the_recipe_says_which_signals_stop_it(self) -> None:
        run = self.start("train.stop_signals=[\"XCPU\"]")
        run.wait_for_steps(3)
        for number in (signal.SIGUSR2, signal.SIGTERM):  # watched until the recipe was read
            run.ranks()[1].send_signal(number)
        run.wait_for_steps(run.steps() + 20)
        run.ranks()[0].send_signal(signal.SIGXCPU)  # the rank that tells
        self.expect_stopped_and_saved(run)
        self.assertIn("stopped by SIGXCPU", run.said())

    def test_usr1_stops_where_the_recipe_says_so(self) -> None:
        run = self.start("train.stop_signals=[\"USR1\"]")
        run.wait_for_steps(3)
        run.mpirun().send_signal(signal.SIGUSR1)
        self.expect_stopped_and_saved(run)
        self.assertEqual(list(run.run_dir.glob("logs/flight-*")), [])

    def test_sigint_stops_whatever_the_recipe_says(self) -> None:
        run = self.start("train.stop_signals=[]")
        run.wait_for_steps(3)
        run.ranks()[0].send_signal(signal.SIGINT)
        self.expect_stopped_and_saved(run)

    def test_while_pictures_are_made(self) -> None:
        run = self.start("sample.every=4", "sample.steps=200000")
        run.wait_for_steps(4)
        time.sleep(0.5)  # into the sampling, which would take hours
        run.ranks()[1].send_signal(signal.SIGUSR2)
        steps = self.expect_stopped_and_saved(run)
        self.assertEqual(steps, 4)
        # Resumed, it makes the pictures that were due, and then goes on.
        again = Run(run.run_dir, self.data, "sample.every=4", launcher=MPIRUN,
                    options=("--accept-changes",))
        self.assertEqual(again.end(), 0, again.said())
        self.assertTrue((run.run_dir / "samples" / "step-00000004.png").exists())

    def test_the_sample_command(self) -> None:
        command = [*MPIRUN, str(PROGRAM), "sample", str(self.uninterrupted), "--out",
                   str(self.scratch / "never.png"), "--set", "sample.steps=200000"]
        process = subprocess.Popen(command, env={**os.environ, **trestle.MPI_ENVIRONMENT},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(6)
        process.send_signal(signal.SIGUSR2)
        _, said = process.communicate(timeout=60)
        self.assertEqual(process.returncode, STOPPED, said)
        self.assertIn("stopped by SIGUSR2", said)
        self.assertFalse((self.scratch / "never.png").exists())


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
