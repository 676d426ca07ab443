"""The disk fills up at a random instant of a run, to a random degree: what was saved stays whole,
the run goes on or ends with a documented code, and with room again it comes to the same end."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

from runs import (STEPS, Rounds, Run, Setup, checkpoint, differing, expect, expect_valid_newest,
                  saved_steps, trestle)

WORLDS = (1, 2, 3)
DISK_BYTES = 64 << 20
ENVIRONMENT, CHECKPOINT = 4, 5  # where logs cannot begin; where it cannot save


class FullDisks(Rounds):
    name = "full-disk"
    help = "a small file system fills up at a random instant (needs the right to mount one)"

    def rounds(self) -> int:
        return self.count

    def run(self, number: int, folder: Path, tell) -> None:  # noqa: ANN001
        rng = random.Random(f"{self.seed}/full-disk/{number}")
        folder.mkdir(parents=True)
        world = rng.choice(WORLDS)
        usual = self.setup.run_uninterrupted(world)
        last = checkpoint(usual.run_dir, STEPS)
        checkpoint_bytes = sum(-(-f.stat().st_size // 4096) * 4096 for f in last.iterdir())
        disk = trestle.SmallDisk(folder / "disk", DISK_BYTES)
        try:
            run_dir = disk.folder / "run"
            run = Run(self.setup, run_dir, world)
            time.sleep(rng.uniform(0, usual.whole_s))
            saved = max(saved_steps(run_dir), default=None)
            free_bytes = rng.randrange(2 * checkpoint_bytes)
            try:
                ballast = disk.fill_up_to(free_bytes)
            except OSError:  # the run took the last bytes itself
                ballast = disk.folder / "ballast"
            until = rng.uniform(0, usual.whole_s) if rng.random() < 0.5 else None
            if until is not None:
                time.sleep(until)
                ballast.unlink()
            code = run.ended()
            allowed = (0, ENVIRONMENT, CHECKPOINT)
            expect(code in allowed, f"exit code {code}, none of {allowed}\n{run.said()}")
            newest = expect_valid_newest(self.setup, run_dir, saved)
            ballast.unlink(missing_ok=True)
            tell({"world": world, "free": free_bytes / checkpoint_bytes, "code": code,
                  "again": until is not None, "newest": newest})
            again = Run(self.setup, run_dir, world)
            again.expect_complete()
            # Lines of metrics that had no room are missing; the state is not.
            names = differing(checkpoint(run_dir, STEPS), last)
            expect(not names, f"the final state differs in {names[:5]}")
        finally:
            disk.unmount()


def why_not(setup: Setup) -> str:
    """Why such a disk cannot be had here; empty where it can."""
    try:
        trestle.SmallDisk(setup.scratch / "may-mount", 1 << 20).unmount()
    except (subprocess.CalledProcessError, OSError) as error:
        return f"a tmpfs cannot be mounted here: {error}"
    return ""
