"""Signals under mpirun at random moments: each is to be saved and left with code 75 on every rank,
and the run that goes on comes to the same end, to the bit."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import psutil

from runs import (PATIENCE_S, PREEMPTED, STEPS, Rounds, Run, expect, expect_same_end,
                  expect_valid_newest, saved_steps, steps_done)

WORLDS = (2, 3)
MOMENTS = ("training", "data", "pictures", "job")  # in the order of a run: one round has all
SIGNALS = ("TERM to mpirun", "USR2 to mpirun", "TERM to a rank", "USR2 to a rank")
A_ROUND = len(MOMENTS)

# What makes a moment last, so that a signal at a random instant falls into it.
LONG = {
    "training": (),
    "data": ("task.load_ms=120", "data.prefetch=1"),
    "pictures": ("sample.every=10", "task.paint_steps=100", "task.paint_ms=50"),
    "job": ("task.job_ms=20000",),
}


class Preemptions(Rounds):
    name = "preempt"
    help = "signals while training, waiting for data, drawing pictures and working on a job"

    def rounds(self) -> int:
        return -(-self.count // A_ROUND)

    def run(self, number: int, folder: Path, tell) -> None:  # noqa: ANN001
        rng = random.Random(f"{self.seed}/preempt/{number}")
        world = rng.choice(WORLDS)
        run_dir = folder / "run"
        # Every signal at every moment in four rounds; half of them followed by a second.
        for place in range(min(A_ROUND, self.count - number * A_ROUND)):
            how = SIGNALS[(place + number) % len(SIGNALS)]
            codes = folder / f"codes-{place}"
            codes.mkdir(parents=True)
            again = (place + number // 2) % 2 == 0
            tell({"world": world,
                  **self.preempt(run_dir, world, MOMENTS[place], how, again, codes, rng)})
        run = Run(self.setup, run_dir, world)
        run.expect_complete()
        expect("resumed from" in run.said(), f"it did not resume\n{run.said()}")
        expect_same_end(self.setup, run_dir, world)

    def preempt(self, run_dir: Path, world: int, moment: str, how: str, again: bool, codes: Path,
                rng: random.Random) -> dict:
        """One signal, and where asked a second during the save that it causes."""
        before = steps_done(run_dir)
        saved = max(saved_steps(run_dir), default=None)
        run = Run(self.setup, run_dir, world, *LONG[moment], mpirun=True, codes=codes)
        self.reach(run, moment, before, rng)
        ranks = list(run.living().values())
        expect(len(ranks) == world, f"it has {len(ranks)} ranks of {world}\n{run.said()}")
        number = getattr(signal, f"SIG{how.split()[0]}")
        target = run.process if how.endswith("mpirun") else rng.choice(ranks)
        target.send_signal(number)
        second = self.signal_during_save(run, ranks, rng) if again else ""
        run.ended()  # what mpirun makes of it is its own affair

        ended = {int(p.name): int(p.read_text()) for p in codes.iterdir()}
        expect(ended == dict.fromkeys(range(world), PREEMPTED),
               f"{how} while at {moment}: exit codes by rank {ended}\n{run.said()}")
        expect("the same command goes on from there" in run.said(),
               f"it does not say that the same command goes on\n{run.said()}")
        done = steps_done(run_dir)
        if moment == "data" and done > before:
            last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
            expect(last["data_wait_ms"] > 0.5 * last["step_ms"], f"it hardly waited: {last}")
        expect((done == STEPS) == (moment == "job"), f"{moment}: signalled at step {done}")
        newest = expect_valid_newest(self.setup, run_dir, saved)
        expect(newest == done, f"{done} steps were done, and the newest checkpoint is {newest}")
        return {"moment": moment, "signal": how, "second": second, "step": done}

    @staticmethod
    def reach(run: Run, moment: str, before: int, rng: random.Random) -> None:
        """Until the run is at a random instant of the moment."""
        if moment == "pictures":
            run.wait_for_text("painting begins")
        elif moment == "job":
            run.wait_for_text("slow_fit: the job begins")
        else:
            run.wait_for_text("gradient buckets")
            if moment == "training":
                run.wait_for_steps(before + rng.randint(1, 30))
                return
        time.sleep(rng.uniform(0, 0.5))

    @staticmethod
    def signal_during_save(run: Run, ranks: list[psutil.Process], rng: random.Random) -> str:
        """Its name, if the save was seen to be under way."""
        number = rng.choice((signal.SIGTERM, signal.SIGUSR2, signal.SIGINT))
        deadline = time.monotonic() + PATIENCE_S
        while not run.over() and time.monotonic() < deadline:
            if run.new_entries(".tmp-step"):
                for process in ranks:
                    try:
                        process.send_signal(number)
                    except psutil.NoSuchProcess:
                        continue
                return number.name
            time.sleep(0.0005)
        return ""


