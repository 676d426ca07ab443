#!/usr/bin/env python3
"""trestle doctor alone and on three ranks: each check has its line, the known trap of mpirun's
binding is seen, what is wrong is said and has code 4, and nothing is left behind.

    python tests/program/doctor_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import trestle

PROGRAM = Path("trestle")
ENVIRONMENT = 4
CHECKS = ["program", "mpi", "slurm", "ranks", "hosts", "clocks", "cores", "threads", "memory",
          "gpus", "nccl", "network", "shm", "memlock", "stack", "open_files", "core_files",
          "run_directory", "file_system", "renames", "claims", "sharing", "write_rate", "space",
          "inodes"]


class Doctor(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="trestle-doctor-")
        self.addCleanup(folder.cleanup)
        self.scratch = Path(folder.name)
        self.run_dir = self.scratch / "runs" / "cats"

    def report(self, result: subprocess.CompletedProcess) -> dict[str, dict]:
        """The checks by name; each is there, in its order, and fits the exit code."""
        report = json.loads(result.stdout)
        self.assertEqual([c["check"] for c in report["checks"]], CHECKS)
        failed = [c for c in report["checks"] if c["health"] == "fail"]
        self.assertEqual(result.returncode, ENVIRONMENT if failed else 0, failed)
        for check in report["checks"]:
            self.assertEqual(check["advice"] == "", check["health"] == "ok", check)
            self.assertNotEqual(check["value"], "", check)
        self.assertEqual(list(self.scratch.rglob("*doctor*")), [])
        self.assertEqual(report["hosts"], [os.uname().nodename])
        return {c["check"]: c for c in report["checks"]}

    def examine(self, *arguments: object, **kwargs) -> dict[str, dict]:
        return self.report(trestle.run(PROGRAM, "doctor", "--run-dir", self.run_dir, "--json",
                                       *arguments, **kwargs))

    def test_alone(self) -> None:
        checks = self.examine()
        self.assertIn("1 rank, started alone", checks["ranks"]["value"])
        self.assertIn(str(self.scratch), checks["file_system"]["value"])
        self.assertIn("/s with fsync", checks["write_rate"]["value"])
        for check in ("program", "ranks", "renames", "claims", "sharing"):
            self.assertEqual(checks[check]["health"], "ok", checks[check])
        self.assertFalse(self.run_dir.exists())

    def test_on_three_ranks(self) -> None:
        checks = self.examine(ranks=3)
        self.assertIn("3 ranks, started by mpirun", checks["ranks"]["value"])
        self.assertIn("of 3 ranks that claim the same file at once, 1 linked it and 1 made it",
                      checks["claims"]["value"])
        self.assertEqual(checks["mpi"]["health"], "ok", checks["mpi"])
        self.assertIn("ranks 0-2 on CPU", checks["cores"]["value"])
        self.assertEqual(checks["threads"]["value"], "1 a rank (OMP_NUM_THREADS=1)")

    def test_ranks_that_mpirun_binds_to_one_core_with_all_their_threads(self) -> None:
        environment = {**os.environ, **trestle.MPI_ENVIRONMENT, "OMP_NUM_THREADS": "2",
                       "OMPI_MCA_hwloc_base_binding_policy": "core"}
        result = subprocess.run(
            ["mpirun", "-n", "2", "--bind-to", "core", "--map-by", "core", str(PROGRAM), "doctor",
             "--run-dir", str(self.run_dir), "--json"],
            env=environment, text=True, capture_output=True, timeout=120)
        cores = self.report(result)["cores"]
        self.assertEqual(cores["health"], "warn", cores)
        self.assertIn("has 2 threads for CPU", cores["advice"])
        self.assertIn("--bind-to none", cores["advice"])

    def test_the_table_has_a_line_for_each_check(self) -> None:
        result = trestle.run(PROGRAM, "doctor", "--run-dir", self.run_dir, ranks=2)
        lines = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
        self.assertEqual([line.split()[1] for line in lines], CHECKS)
        self.assertLessEqual({line.split()[0] for line in lines}, {"ok", "warn", "fail"})

    def test_what_a_recipe_needs(self) -> None:
        data = trestle.make_data(self.scratch / "data")
        recipe = ("--recipe", trestle.TINY, "--set", f"data.path={data}")
        checks = self.examine(*recipe, ranks=2)
        self.assertIn("2 checkpoints and one being written", checks["space"]["value"])
        self.assertIn("a rank's tensors take", checks["memory"]["value"])
        self.assertIn("a checkpoint of", checks["write_rate"]["value"])
        checks = self.examine(*recipe, "--set", "train.steps=1000", "--set",
                              "checkpoint.keep_last=5")
        self.assertIn("5 checkpoints and one being written", checks["space"]["value"])
        checks = self.examine(*recipe, "--set", "dist.threads=64")
        self.assertEqual(checks["cores"]["health"], "warn")
        self.assertIn("64 threads", checks["cores"]["value"])
        refused = trestle.run(PROGRAM, "doctor", *recipe, "--set", "train.stepps=3")
        self.assertEqual(refused.returncode, 2, refused.stderr)
        self.assertIn("train.stepps", refused.stderr)

    def test_what_is_wrong_is_said_and_has_a_code(self) -> None:
        def few_files() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
        result = subprocess.run([str(PROGRAM), "doctor", "--run-dir", str(self.run_dir), "--json"],
                                env={**os.environ, **trestle.MPI_ENVIRONMENT}, text=True,
                                capture_output=True, timeout=120, preexec_fn=few_files)
        self.assertEqual(result.returncode, ENVIRONMENT, result.stderr)
        checks = self.report(result)
        self.assertEqual(checks["open_files"]["health"], "fail")
        self.assertIn("may open 60 files", checks["open_files"]["advice"])
        self.assertEqual(checks["stack"]["health"], "warn")

    def test_a_run_directory_that_is_a_file(self) -> None:
        self.run_dir.parent.mkdir()
        self.run_dir.write_text("not a folder")
        checks = self.examine()
        self.assertEqual(checks["run_directory"]["health"], "fail", checks["run_directory"])

    def test_an_mpirun_of_another_mpi(self) -> None:
        fake = self.scratch / "bin" / "mpirun"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 1.2.3'\n")
        fake.chmod(0o755)
        checks = self.examine(environment={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
        self.assertEqual(checks["mpi"]["health"], "fail")
        self.assertIn("1.2.3", checks["mpi"]["value"])

    def test_tasks_that_found_no_peers(self) -> None:
        # As srun starts them where Slurm offers no PMIx.
        for task in (0, 1):
            result = trestle.run(PROGRAM, "doctor", "--run-dir", self.run_dir, "--json",
                                 environment={"SLURM_PROCID": str(task), "SLURM_STEP_ID": "0",
                                              "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "17"})
            self.assertEqual(result.returncode, ENVIRONMENT, result.stderr)
            if task == 1:
                self.assertEqual(result.stdout, "")  # one speaks for all
                continue
            ranks = self.report(result)["ranks"]
            self.assertEqual(ranks["health"], "fail")
            self.assertIn("srun started 2 tasks", ranks["advice"])
            self.assertIn("srun --mpi=pmix", ranks["advice"])


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
