#!/usr/bin/env python3
"""Preemptions at random moments: whatever a run is doing (steps, pictures, waiting for data, a job
after the training), and whoever receives which signal, every rank leaves with 75, saved.

    python tests/fault/preemptions_test.py --trestle build/release/launch/trestle \\
        --trestle-small build/release/tests/trestle_small [--count 20] [--seed 6]

Prints the seed, each preemption, and how many of them did what they should.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

RANKS = 2
# A rank in a shell that only waits for it and writes down how it ended.
WITNESS = 'trap "" INT TERM USR2 CONT; "$@"; echo $? >"$ENDED/$OMPI_COMM_WORLD_RANK"'
LINE_FIT = """\
[run]
task = "line_fit"
[train]
steps = 100000
global_batch = 8
micro_batch = 2
[checkpoint]
every = 0
[data]
workers = 1
"""


class Preemption:
    """One run, and the moment at which it is told to stop."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, number: int,
                 chance: random.Random):
        self.run_dir = scratch / f"run-{number}"
        self.doing = ("training", "sampling", "waiting for data", "in a job")[number % 4]
        self.delay_s = chance.uniform(0, 1.5)
        self.signal, self.to = chance.choice([
            (signal.SIGUSR2, "mpirun"), (signal.SIGUSR2, "rank 0"), (signal.SIGUSR2, "rank 1"),
            (signal.SIGTERM, "rank 0"), (signal.SIGTERM, "rank 1"), (signal.SIGINT, "rank 1")])
        self.after_steps = chance.randint(1, 30)
        self.program, self.recipe = arguments.trestle.resolve(), trestle.TINY
        sets = [f"data.path={scratch / 'data'}", "train.steps=100000", "checkpoint.every=0"]
        if self.doing == "sampling":
            self.after_steps = 4
            sets += ["sample.every=4", "sample.steps=200000"]
        elif self.doing != "training":
            self.program, self.recipe = arguments.trestle_small.resolve(), scratch / "line.toml"
            sets = []
        if self.doing == "waiting for data":
            self.after_steps = chance.randint(1, 3)
            sets += ["task.load_ms=800"]
        elif self.doing == "in a job":
            self.after_steps = 3
            sets += ["train.steps=3", "task.job_items=100000"]
        self.sets = trestle.settings(*sets)

    def __str__(self) -> str:
        return (f"{self.signal.name} to {self.to} while {self.doing}, {self.delay_s:.2f} s after "
                f"step {self.after_steps}")

    def steps(self) -> int:
        metrics = self.run_dir / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def problem(self) -> str:
        """What was not as it should be; empty where all was."""
        ended = self.run_dir / "ended"
        ended.mkdir(parents=True)
        command = ["mpirun", "-n", str(RANKS), "--bind-to", "none", "sh", "-c", WITNESS, "witness",
                   str(self.program), "train", str(self.recipe), "--run-dir", str(self.run_dir),
                   *self.sets]
        environment = {**os.environ, **trestle.MPI_ENVIRONMENT, "ENDED": str(ended)}
        with (self.run_dir / "output.txt").open("w") as output:
            process = subprocess.Popen(command, env=environment, stdout=output,
                                       stderr=subprocess.STDOUT)
        try:
            trestle.wait_until(lambda: self.steps() >= self.after_steps
                               or process.poll() is not None, f"step {self.after_steps}")
            time.sleep(self.delay_s)
            self.send(process.pid)
            process.wait(60)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
            return f"{error}; it was killed"
        codes = {path.name: path.read_text().strip() for path in ended.iterdir()}
        if codes != {str(rank): "75" for rank in range(RANKS)}:
            return f"the ranks ended with {codes}"
        saved = trestle.last_checkpoint(self.run_dir).folder
        if saved.name != f"step-{self.steps():08}":
            return f"{saved.name} is the last checkpoint, and {self.steps()} steps were done"
        verified = trestle.run(self.program, "inspect", saved, "--verify")
        return verified.stderr if verified.returncode else ""

    def send(self, mpirun: int) -> None:
        if self.to == "mpirun":
            os.kill(mpirun, self.signal)
            return
        rank = self.to.split()[1]
        for child in psutil.Process(mpirun).children(recursive=True):
            if child.name().startswith("trestle") and \
                    child.environ()["OMPI_COMM_WORLD_RANK"] == rank:
                child.send_signal(self.signal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    parser.add_argument("--trestle-small", type=Path, required=True,
                        help="the program with the tasks of tests/tasks/")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=6)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    good = 0
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        trestle.make_data(scratch / "data")
        (scratch / "line.toml").write_text(LINE_FIT)
        for number in range(arguments.count):
            preemption = Preemption(arguments, scratch, number, chance)
            problem = preemption.problem()
            good += not problem
            print(f"{number + 1:3}  {preemption}, {preemption.steps()} steps done: "
                  f"{problem or '75 on every rank, saved'}", flush=True)
            if problem:
                print((preemption.run_dir / "output.txt").read_text())
    print(f"{good} of {arguments.count} preemptions saved and left with 75")
    return 0 if good == arguments.count else 1


if __name__ == "__main__":
    sys.exit(main())
