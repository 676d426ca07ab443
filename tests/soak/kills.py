"""kill -9 of a random rank at random instants and at each named step of the save protocol."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time
from pathlib import Path

import psutil

from folder_events import MADE, MOVED_HERE, OPENED, READ, FolderEvents
from runs import (EVERY, PATIENCE_S, STEPS, Broken, Rounds, Run, Setup, checkpoint, expect,
                  expect_same_end, expect_valid_newest, saved_steps, steps_done, trestle)

WORLDS = (1, 2, 3)
A_ROUND = 5  # kills, in one run directory
ATTEMPTS = 8  # at one kill: a run may be over before it comes
DEATHS = (137, -signal.SIGKILL, 7)  # of mpirun; of a lone rank; of those that lost a peer
PASSING = ("loading", "deleting")  # moments too short to be hit by chance; deletes need keep_last


@dataclasses.dataclass(frozen=True)
class Kill:
    """At a share of what is left of the run; or where the program itself says (`named`), or as soon
    as a moment is seen from outside (`awaited`)."""

    share: float = 0.0
    named: str = ""
    awaited: str = ""

    def __str__(self) -> str:
        return self.named or self.awaited or "an instant"


def plan(count: int, names: list[str], each: int, rng: random.Random,
         passing: tuple[str, ...] = PASSING) -> list[Kill]:
    """`count` kills in random order: `each` at every name (but not more than half of all), some
    where a moment passes quickly, the others at random instants."""
    named = [Kill(named=name) for name in names for _ in range(each)]
    rng.shuffle(named)
    kills = named[:count // 2]
    rest = count - len(kills)
    kills += [Kill(awaited=passing[i % len(passing)]) for i in range(rest // 5)]
    kills += [Kill(share=rng.random()) for _ in range(count - len(kills))]
    rng.shuffle(kills)
    return kills


def moment(run: Run) -> str:
    """What the run is at, as far as it can be seen from outside."""
    said = run.said()
    if "gradient buckets" not in said:
        return "starting"
    if run.new_entries(".deleting"):
        return "deleting"
    if run.new_entries(".tmp-step"):
        return "saving"
    if "slow_fit: the job begins" in said:
        return "ending"
    if said.rfind("painting begins") > said.rfind("pictures: "):
        return "pictures"
    return "training"


class Kills(Rounds):
    name = "kills"
    help = "kill -9 of a random rank at random instants and at each named step of a save"

    def __init__(self, setup: Setup, count: int, seed: int, each: int | None = None) -> None:
        super().__init__(setup, count, seed)
        each = max(1, count // 40) if each is None else each
        passing = PASSING if setup.has("checkpoint.keep_last") else PASSING[:1]
        self.plan = plan(count, setup.save_steps, each, random.Random(f"{seed}/kills"), passing)

    def rounds(self) -> int:
        return -(-self.count // A_ROUND)

    def run(self, number: int, folder: Path, tell) -> None:  # noqa: ANN001
        rng = random.Random(f"{self.seed}/kills/{number}")
        world = rng.choice(WORLDS)
        life = Life(self.setup, folder, world, rng)
        for kill in self.plan[number * A_ROUND:(number + 1) * A_ROUND]:
            tell({"world": world, **life.suffer(kill)})
        life.end()


class Life:
    """A run that is killed, resumed and killed again until it is complete."""

    def __init__(self, setup: Setup, folder: Path, world: int, rng: random.Random) -> None:
        self.setup, self.folder, self.world, self.rng = setup, folder, world, rng
        self.usual = setup.run_uninterrupted(world)
        self.number = 0
        self.begin()

    def begin(self) -> None:
        self.number += 1
        self.run_dir = self.folder / f"life-{self.number}"
        self.saved: int | None = None
        # Steps that the last judgement saw, and what their start promised to save of them.
        self.done, self.promised, self.may_be_late = 0, True, False

    def start(self, *sets: str, fault: str = "", fails: bool = False) -> Run:
        self.fails = fails  # its saves do
        self.asynchronous = self.setup.has("checkpoint.async") and self.rng.random() < 0.75
        mode = f"checkpoint.async={str(self.asynchronous).lower()}"
        options = ("--inject", fault) if fault else ()
        return Run(self.setup, self.run_dir, self.world, *self.setup.known(mode), *sets,
                   options=options)

    def suffer(self, kill: Kill) -> dict:
        """Starts the run and kills it; what was hit, and what was left."""
        if self.saved == STEPS:  # there is little left of it to disturb
            self.end()
            shutil.rmtree(self.run_dir)
            self.begin()
        for _ in range(ATTEMPTS):
            rank = 0 if kill.named in self.setup.of_rank_0 else self.rng.randrange(self.world)
            hit = self.obey(kill, rank) if kill.named else self.strike(kill, rank)
            if hit:
                return {"aim": str(kill), **hit}
            if kill.named and rank > 0:
                self.setup.of_rank_0.add(kill.named)  # as it seems
            if not kill.named and not kill.awaited:  # the run was quicker than expected
                kill = Kill(share=self.rng.random())
        raise Broken(f"{kill} was never reached in {ATTEMPTS} runs of {self.world} ranks")

    def obey(self, kill: Kill, rank: int) -> dict | None:
        """The program kills the rank itself, at a step of a save that is drawn, too."""
        fault = f"kill@rank{rank}:save-{kill.named}"
        if kill.named == "discarded":  # of a save that fails: it is given no time
            run = self.start("checkpoint.timeout_s=0.000001", fault=fault, fails=True)
        else:
            first = self.rng.randint(self.saved or 0, max(STEPS - 2 * EVERY, self.saved or 0))
            run = self.start(fault=f"{fault}@step{first}")
        code = run.ended()
        if code == 0:
            self.complete()
            return None
        return self.judge(run, code, rank, f"save-{kill.named}")

    def strike(self, kill: Kill, rank: int) -> dict | None:
        """Kills it from outside."""
        if kill.awaited == "loading" and self.saved is None:
            self.save_something()
        run = self.start()
        left = 1 - (self.saved or 0) / STEPS
        expected_s = self.usual.start_s + left * (self.usual.whole_s - self.usual.start_s)
        if kill.awaited:
            seen = self.wait_for(run, kill.awaited, rank)
            if seen:
                return self.judge(run, run.ended(), rank, kill.awaited)
        else:
            until = run.started + kill.share * expected_s
            while time.monotonic() < until and not run.over():
                time.sleep(0.001)
        victim = self.victim(run, rank)
        hit = moment(run)
        if victim:
            victim.kill()
        code = run.ended()
        if code == 0:  # it was over before that
            self.complete()
            return None
        return self.judge(run, code, rank, hit)

    def victim(self, run: Run, rank: int) -> psutil.Process | None:
        """The rank's process, which mpirun may not have started yet; None: it has left."""
        while not run.over():
            found = run.living()
            if rank in found:
                return found[rank]
            time.sleep(0.002)
        return None

    def wait_for(self, run: Run, awaited: str, rank: int) -> bool:
        """Kills the rank in the moment that is awaited; whether it came."""
        if awaited == "loading":
            watched = {checkpoint(self.run_dir, self.saved): READ | OPENED}
            skip = self.rng.randrange(1 + 4 * self.world)  # of files opened and pieces read
        else:
            run.checkpoints.mkdir(exist_ok=True)
            watched = {run.checkpoints: MOVED_HERE | MADE}
            skip = self.rng.randrange(3)
        victim = None
        with FolderEvents(watched) as events:
            for name in events.names(PATIENCE_S):
                if run.over():
                    return False
                victim = victim or run.living().get(rank)
                if awaited == "loading" and "gradient buckets" in run.said():
                    return False
                if name.startswith(".deleting") or (name and awaited == "loading"):
                    skip -= 1
                if skip < 0 and victim:
                    victim.kill()
                    return True
        return False

    def save_something(self) -> None:
        """A run that is killed once it has a checkpoint."""
        run = self.start()
        trestle.wait_until(lambda: saved_steps(self.run_dir) or run.over(), "a checkpoint")
        victim = self.victim(run, 0)
        if victim:
            victim.kill()
        self.judge(run, run.ended(), 0, "after a first checkpoint")

    def judge(self, run: Run, code: int, rank: int, hit: str) -> dict:
        """What must hold when the last process has gone."""
        expect(code in DEATHS, f"rank {rank} was killed ({hit}), and the run ended with {code}\n"
               f"{run.said()}")
        newest = expect_valid_newest(self.setup, self.run_dir, self.saved)
        done = steps_done(self.run_dir)
        # What was there before is an earlier start's, which may have saved in another way.
        if done != self.done:
            self.done, self.promised = done, not self.fails
            self.may_be_late = self.asynchronous
        # A step is counted before it is saved; a save that is under way is allowed to be lost.
        due = EVERY * (max(0, done - 1) // EVERY) - (EVERY if self.may_be_late else 0)
        due = due if self.promised else 0
        expect(due <= 0 or (newest is not None and newest >= due),
               f"{done} steps were done, so that {due} was saved, and the newest is {newest}")
        self.saved = newest
        return {"rank": rank, "moment": hit, "step": done, "newest": newest,
                "lost": done - (newest or 0), "code": code, "asynchronous": self.asynchronous}

    def complete(self) -> None:
        """A run that was over before it could be killed; the next begins anew."""
        expect_same_end(self.setup, self.run_dir, self.world)
        shutil.rmtree(self.run_dir)
        self.begin()

    def end(self) -> None:
        """The last start, which nobody disturbs."""
        run = self.start()
        run.expect_complete()
        if self.saved is not None:
            expect(f"step-{self.saved:08}" in run.said(),
                   f"it did not resume from step {self.saved}\n{run.said()}")
        expect_same_end(self.setup, self.run_dir, self.world)
