#!/usr/bin/env python3
"""What slurm/requeue.sh and slurm/common.sh decide, with commands of Slurm that only play their
part: they answer from a file and write down what they were asked to do.

    python tests/slurm/requeue_test.py
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import textwrap
import time
import unittest
from pathlib import Path

SLURM = Path(__file__).resolve().parent.parent.parent / "slurm"

SCONTROL = """\
#!/usr/bin/env bash
echo "scontrol $*" >>"$FAKE/calls"
case "$*" in
  "-o show job "*) cat "$FAKE/job" ;;
  "show hostnames "*) tr ',' '\\n' <<<"$3" ;;
  requeue*) [[ ! -e $FAKE/refuses ]] || { cat "$FAKE/refuses" >&2; exit 1; } ;;
esac
"""
SINFO = """\
#!/usr/bin/env bash
cat "$FAKE/nodes"
"""


class Requeue(unittest.TestCase):
    def setUp(self) -> None:
        self.scratch = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.run_dir = self.scratch / "run dir"  # a blank, as users have them
        self.fake = self.scratch / "fake"
        self.fake.mkdir()
        for name, text in (("scontrol", SCONTROL), ("sinfo", SINFO)):
            (self.fake / name).write_text(text)
            (self.fake / name).chmod(0o755)
        self.nodes("n1", "n2", "n3", "n4")
        self.job_is("RUNNING")
        self.restart = 0
        self.variables = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "n1,n2",
                          "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_PARTITION": "all"}

    def nodes(self, *names: str) -> None:
        (self.fake / "nodes").write_text("".join(f"{n}\n" for n in names))

    def job_is(self, state: str, excluded: str = "(null)", reason: str = "None") -> None:
        (self.fake / "job").write_text(f"JobId=17 JobName=x JobState={state} Reason={reason} "
                                       f"ReqNodeList=(null) ExcNodeList={excluded} NumNodes=2\n")

    def saved(self, step: int, whole: bool = True) -> None:
        folder = self.run_dir / "checkpoints" / f"step-{step:08}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "manifest.json").write_text("{}")

    def verdict(self, host: str) -> None:
        time.sleep(0.02)  # newer than the start
        (self.run_dir / "verdict.json").write_text(
            f'{{"kind":"died","rank":3,"host":"{host}","op":"","step":7,"code":7,"sentence":""}}\n')

    def call(self, *arguments: object) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        environment |= {"PATH": f"{self.fake}:{environment['PATH']}", "FAKE": str(self.fake),
                        "TRESTLE_RETRY_S": "0", "SLURM_RESTART_COUNT": str(self.restart),
                        **self.variables}
        return subprocess.run([SLURM / "requeue.sh", *map(str, arguments)], env=environment,
                              text=True, capture_output=True, timeout=30)

    def start(self) -> str:
        result = self.call("start", self.run_dir)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout + result.stderr

    def end(self, code: int) -> str:
        """What it says; it must exit with the code that it was given."""
        result = self.call("end", self.run_dir, code)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def orders(self) -> list[str]:
        """What scontrol was asked to change."""
        calls = self.fake / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if " show " not in line]

    def expect_requeued(self, said: str, *further: str) -> None:
        self.assertIn("requeue.sh: requeued (", said)
        self.assertEqual(self.orders(), ["scontrol requeue 17", *further])

    def expect_left(self, said: str, why: str) -> None:
        self.assertIn("requeue.sh: not requeued (", said)
        self.assertIn(why, said)
        self.assertEqual(self.orders(), [])

    def test_stopped_and_saved_in_a_running_job(self) -> None:
        self.start()
        self.saved(12)
        said = self.end(75)
        self.expect_requeued(said)
        self.assertIn("exit code 75, step 12", said)

    def test_a_job_that_is_being_ended_stays_ended(self) -> None:
        for state in ("COMPLETING", "CANCELLED", "TIMEOUT", "FAILED"):
            for code in (75, 7, 137, 1):
                with self.subTest(state=state, code=code):
                    self.job_is(state)
                    self.start()
                    self.saved(len(list(self.run_dir.rglob("step-*"))) + 1)
                    self.expect_left(self.end(code), f"the job is {state}")

    def test_a_save_that_the_time_limit_overtook(self) -> None:
        self.job_is("COMPLETING", reason="TimeLimit")
        self.start()
        self.saved(12)
        self.expect_requeued(self.end(75))

    def test_a_lost_rank_at_the_time_limit(self) -> None:
        # Slurm has killed what did not save in time: that is no rank's fault.
        self.job_is("COMPLETING", reason="TimeLimit")
        self.start()
        self.saved(12)
        self.expect_left(self.end(137), "the job is COMPLETING")

    def test_a_job_that_slurm_does_not_know(self) -> None:
        (self.fake / "job").write_text("")
        self.start()
        self.expect_left(self.end(75), "does not say what state job 17 is in")

    def test_codes_that_another_start_would_not_mend(self) -> None:
        for code, why in ((0, "done"), (1, "nothing is known"), (2, "recipe"), (3, "data"),
                          (4, "machine"), (5, "checkpoint"), (6, "not finite"),
                          (143, "nothing is known"), (139, "nothing is known")):
            with self.subTest(code=code):
                self.start()
                self.saved(100 + code)
                self.expect_left(self.end(code), why)

    def test_a_lost_rank_after_a_save(self) -> None:
        for code in (7, 137):
            with self.subTest(code=code):
                self.start()
                self.saved(code)
                self.assertIn("requeued (", self.end(code))
                self.restart += 1
        self.assertEqual(self.orders(), ["scontrol requeue 17"] * 2)

    def test_a_lost_rank_without_progress(self) -> None:
        self.saved(40)
        self.start()
        self.expect_left(self.end(137), "nothing new was saved since the start at step 40")

    def test_what_is_no_checkpoint_is_no_progress(self) -> None:
        self.saved(40)
        self.start()
        self.saved(50, whole=False)
        damaged = self.run_dir / "checkpoints" / "step-00000060.damaged"
        damaged.mkdir()
        (damaged / "manifest.json").write_text("{}")
        self.expect_left(self.end(7), "nothing new was saved")

    def test_at_most_so_many_lost_ranks_a_job(self) -> None:
        self.variables["TRESTLE_MAX_REQUEUES"] = "2"
        for step in (10, 20):
            self.start()
            self.saved(step)
            self.assertIn("requeued (", self.end(7))
            self.restart += 1
        self.start()
        self.saved(30)
        self.assertIn("has been requeued 2 times for that", self.end(7))
        self.assertEqual(self.orders(), ["scontrol requeue 17"] * 2)
        # Another job in the same run directory counts anew.
        self.variables["SLURM_JOB_ID"] = "18"
        self.start()
        self.saved(40)
        self.assertIn("requeued (", self.end(7))

    def test_being_stopped_does_not_count_as_a_lost_rank(self) -> None:
        self.variables["TRESTLE_MAX_REQUEUES"] = "1"
        for step in (10, 20, 30):
            self.start()
            self.saved(step)
            self.assertIn("requeued (", self.end(75))
            self.restart += 1
        self.start()
        self.saved(40)
        self.assertIn("requeued (", self.end(7))

    def test_stops_again_and_again_before_anything_is_saved(self) -> None:
        self.saved(5)
        for _ in range(3):
            self.start()
            self.assertIn("requeued (", self.end(75))
            self.restart += 1
        self.start()
        said = self.end(75)
        self.assertIn("not requeued (", said)
        self.assertIn("stopped 4 times in a row at step 5", said)
        self.assertEqual(len(self.orders()), 3)

    def test_a_save_between_makes_stops_count_anew(self) -> None:
        step = 0
        for restart in range(9):
            self.restart = restart
            self.start()
            if restart % 3 == 2:
                step += 1
                self.saved(step)
            self.assertIn("requeued (", self.end(75))

    def test_the_blamed_host_is_excluded_and_remembered(self) -> None:
        self.start()
        self.saved(10)
        self.verdict("n2")
        said = self.end(7)
        self.expect_requeued(said, "scontrol update JobId=17 ExcNodeList=n2")
        self.assertIn("n2", said)
        self.assertEqual((self.run_dir / "slurm" / "excluded_hosts").read_text(), "n2\n")
        # The next one joins it; what the user excluded stays.
        self.restart = 1
        self.job_is("RUNNING", excluded="n9,n2")
        self.variables["SLURM_JOB_NODELIST"] = "n1,n3"
        self.nodes("n1", "n2", "n3", "n4", "n5")
        self.start()
        self.saved(20)
        self.verdict("n3.cluster.example")  # Slurm calls it n3
        self.end(137)
        self.assertEqual(self.orders()[-1], "scontrol update JobId=17 ExcNodeList=n2,n3,n9")

    def test_a_verdict_of_an_earlier_start_blames_nobody(self) -> None:
        self.run_dir.mkdir()
        self.verdict("n2")
        time.sleep(0.02)
        self.start()
        self.saved(10)
        self.expect_requeued(self.end(137))
        self.assertFalse((self.run_dir / "slurm" / "excluded_hosts").exists())

    def test_a_host_that_is_none_of_the_jobs_is_not_excluded(self) -> None:
        self.start()
        self.saved(10)
        self.verdict("login")
        self.expect_requeued(self.end(7))

    def test_a_remembered_host_is_excluded_at_every_later_requeue(self) -> None:
        self.start()
        (self.run_dir / "slurm" / "excluded_hosts").write_text("n4\n")
        self.saved(10)
        self.expect_requeued(self.end(75), "scontrol update JobId=17 ExcNodeList=n4")

    def test_a_job_on_a_remembered_host_is_told(self) -> None:
        self.start()
        (self.run_dir / "slurm" / "excluded_hosts").write_text("n2\n")
        self.assertIn("n2 was to blame for a lost rank before (submit with --exclude=n2",
                      self.start())

    def test_nobody_is_excluded_where_too_few_would_be_left(self) -> None:
        self.nodes("n1", "n2")
        self.start()
        self.saved(10)
        self.verdict("n2")
        said = self.end(7)
        self.expect_requeued(said)
        self.assertIn("fewer machines than the job needs", said)

    def test_a_task_of_an_array_goes_by_its_own_name(self) -> None:
        self.variables |= {"SLURM_JOB_ID": "20", "SLURM_ARRAY_JOB_ID": "20",
                           "SLURM_ARRAY_TASK_ID": "3"}
        self.start()
        self.saved(1)
        self.end(75)
        self.assertEqual(self.orders(), ["scontrol requeue 20_3"])

    def test_slurm_refuses(self) -> None:
        (self.fake / "refuses").write_text("Requested operation is presently disabled\n")
        self.start()
        self.saved(1)
        said = self.end(75)
        self.assertIn("not requeued (exit code 75, step 1): Slurm refuses to requeue "
                      "(Requested operation is presently disabled)", said)

    def test_a_history_for_people(self) -> None:
        self.start()
        self.saved(12)
        self.end(75)
        lines = (self.run_dir / "slurm" / "history.tsv").read_text().splitlines()
        self.assertEqual([line.split("\t")[1:] for line in lines],
                         [["17", "0", "start", "-", "0", "n1,n2"],
                          ["17", "0", "requeued", "75", "12", "stopped and saved"]])

    def test_a_run_directory_that_cannot_be_written_keeps_no_job_from_its_queue(self) -> None:
        self.run_dir.mkdir()
        (self.run_dir / "slurm").write_text("a file where the folder should be")
        self.assertIn("cannot write", self.start())
        self.saved(12)
        result = self.call("end", self.run_dir, 75)
        self.assertIn("requeued (exit code 75, step 12)", result.stdout)

    def test_outside_slurm(self) -> None:
        self.variables = {}
        result = self.call("end", self.run_dir, 7)
        self.assertEqual(result.returncode, 7)
        self.assertIn("not in a Slurm job", result.stderr)
        self.assertEqual(self.call("end", self.run_dir).returncode, 2)
        self.assertEqual(self.call().returncode, 2)


class Common(unittest.TestCase):
    def setUp(self) -> None:
        self.scratch = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def bash(self, text: str, *arguments: str,
             environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        script = self.scratch / "script"
        script.write_text(f"set -euo pipefail\nroot={self.scratch}\nsource {SLURM}/common.sh\n"
                          + textwrap.dedent(text))
        plain = {k: v for k, v in os.environ.items()
                 if not k.startswith(("SLURM", "OMP_", "TRESTLE_"))}
        return subprocess.run(["bash", script, *arguments], text=True, capture_output=True,
                              env={**plain, **(environment or {})}, timeout=30)

    def test_arguments(self) -> None:
        show = 'read_arguments "$@"; printf "<%s>" "$recipe" "$run_dir" "${arguments[@]}"'
        program = {"TRESTLE_PROGRAM": "/bin/true"}
        for given, expected in (
                (["my/a.toml"], "<my/a.toml><runs/a>"),
                (["a.toml", "--run-dir", "x y"], "<a.toml><x y>"),
                (["a.toml", "--set", "k=1", "--run-dir=z", "--accept-changes"],
                 "<a.toml><z><--set><k=1><--accept-changes>")):
            with self.subTest(given):
                self.assertEqual(self.bash(show, *given, environment=program).stdout, expected)
        for given, code, words in (([], 2, "no recipe was named"), (["--set"], 2, "no recipe"),
                                   (["a.toml"], 4, "is not there. Build first")):
            with self.subTest(given):
                result = self.bash(show, *given)
                self.assertEqual(result.returncode, code)
                self.assertIn(words, result.stderr)

    def test_the_cpu_layout(self) -> None:
        show = 'set_cpu_layout; echo "$OMP_NUM_THREADS ${cpu_options[*]}"'
        for given, expected in (({}, "1 "), ({"SLURM_CPUS_PER_TASK": "8"}, "8 --cpus-per-task=8"),
                                ({"SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "4"},
                                 "4 --cpus-per-task=8")):
            with self.subTest(given):
                self.assertEqual(self.bash(show, environment=given).stdout, expected + "\n")

    def test_signals_are_passed_on_and_the_code_comes_back(self) -> None:
        for body, code in (("exit 7", 7), ("kill -KILL $$", 137),
                           ("trap 'exit 75' USR2; kill -USR2 $PPID; sleep 5 & wait; exit 1", 75),
                           # Twice, and a child that takes its time.
                           ("trap 'n=$((${n:-0} + 1))' USR2; kill -USR2 $PPID; sleep 0.3; "
                            "kill -USR2 $PPID; sleep 0.3; exit 7${n:-0}", 72)):
            with self.subTest(body):
                result = self.bash('status=0; pass_signals bash -c "$1" || status=$?; exit $status',
                                   body)
                self.assertEqual(result.returncode, code, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
