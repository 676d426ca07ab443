"""A killed run goes on with another number of ranks: what they load is the checkpoint, to the bit,
and they come to the same end but for rounding."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import psutil

from runs import (STEPS, Rounds, Run, checkpoint, copy_of, differing, expect, expect_valid_newest,
                  saved_steps, trestle)

WORLDS = (1, 2, 3, 4)
A_ROUND = 2  # resizes, in one run directory
ROUNDING = 1e-3  # of the final weights, relative: fp32 sums in another order, 240 steps of AdamW


class Resizes(Rounds):
    name = "resize"
    help = "kill, then go on with another number of ranks"

    def rounds(self) -> int:
        return -(-self.count // A_ROUND)

    def run(self, number: int, folder: Path, tell) -> None:  # noqa: ANN001
        rng = random.Random(f"{self.seed}/resize/{number}")
        run_dir = folder / "run"
        world = rng.choice(WORLDS)
        usual = self.setup.run_uninterrupted(world)
        steps_s = (usual.whole_s - usual.start_s) / STEPS
        for place in range(min(A_ROUND, self.count - number * A_ROUND)):
            before = max(saved_steps(run_dir), default=0)
            run = Run(self.setup, run_dir, world)
            run.wait_for_text("gradient buckets")
            # Past a first checkpoint, and with steps left for the next.
            last = STEPS * (place + 1) // (A_ROUND + 1)
            run.wait_for_steps(min(before + 30, last))
            time.sleep(rng.uniform(0, max(0.0, steps_s * (last - before - 30))))
            for process in run.living().values():
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            run.ended()
            saved = expect_valid_newest(self.setup, run_dir, before or None)
            expect(saved is not None, f"nothing was saved\n{run.said()}")
            other = rng.choice([w for w in WORLDS if w != world])
            if saved < STEPS:
                self.expect_exact_load(run_dir, saved, other, folder / f"probe-{place}", rng)
            tell({"world": world, "other": other, "step": saved})
            world = other
        run = Run(self.setup, run_dir, world)
        run.expect_complete()
        expect(f"step-{saved:08}" in run.said(), f"it did not resume from step {saved}")
        ends = [trestle.Checkpoint(checkpoint(d, STEPS)).tensors("model/")
                for d in (run_dir, usual.run_dir)]
        error = trestle.distance(*ends)
        expect(error <= ROUNDING, f"the final weights are {error:.1e} from those of one world")

    def expect_exact_load(self, run_dir: Path, step: int, world: int, probe: Path,
                          rng: random.Random) -> None:
        """Other ranks load the checkpoint, take a step that changes nothing (its gradient is not a
        number, so that it is skipped), and save: every tensor has the same bits."""
        copy_of(run_dir, step, probe)
        run = Run(self.setup, probe, world, f"train.steps={step + 1}", "sample.every=0",
                  "checkpoint.every=0", "task.job_items=0",
                  options=("--inject", f"nan@rank{rng.randrange(world)}:step{step}"))
        run.expect_complete()
        expect(f"step-{step:08}" in run.said() and "The step is skipped" in run.said(),
               f"the probe did not load step {step} and skip the next\n{run.said()}")
        names = [n for n in differing(checkpoint(probe, step), checkpoint(probe, step + 1))
                 if not n.startswith("trainer/")]
        expect(not names, f"{world} ranks loaded something else than was saved: {names[:5]}")
        shutil.rmtree(probe)
