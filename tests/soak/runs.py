"""What the rounds of tools/soak share: runs of the small recipe in the background, what must hold
of a run directory at any instant, and what a run must have come to at its end.

A promise that does not hold raises Broken, with everything that is known about it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "program"))
import trestle  # noqa: E402

RECIPE = trestle.TESTS / "tasks" / "slow_fit" / "recipe.toml"
STEPS, EVERY, KEPT = 480, 12, 2  # the first two as the recipe says
PREEMPTED = 75
PATIENCE_S = 240  # for what takes a second on an idle machine

# Values of a checkpoint that equal runs do not share.
OWN_TIMES = ("trainer/wall_s",)


class Broken(Exception):
    """A promise that did not hold."""


def expect(condition: bool, problem: str) -> None:
    if not condition:
        raise Broken(problem)


@dataclasses.dataclass(frozen=True)
class Uninterrupted:
    """What a run of so many ranks comes to that nothing disturbs, and how long it takes."""

    run_dir: Path
    start_s: float  # until the first step is done
    whole_s: float


class Setup:
    """The program, what it can do, and where runs live."""

    def __init__(self, program: Path, scratch: Path) -> None:
        self.program, self.scratch = program, scratch
        said = trestle.checked(trestle.run(program, "explain", RECIPE, "--json")).stdout
        self.options = {option["key"] for option in json.loads(said)}
        self.compares = "--diff" in trestle.run(program, "inspect", "--help").stdout
        # The program names the steps of its own protocol.
        said = trestle.run(program, "train", "--help").stdout
        self.save_steps = list(dict.fromkeys(re.findall(r"\bsave-([a-z][a-z-]*[a-z])", said)))
        self.of_rank_0: set[str] = set()  # steps that no other rank was seen to take
        self.uninterrupted: dict[int, Uninterrupted] = {}
        self.runs: list[Run] = []  # that may be under way

    def stop_runs(self) -> None:
        """Kills what a round that broke off has left."""
        for run in self.runs:
            run.stop()
        self.runs.clear()

    def has(self, option: str) -> bool:
        return option in self.options

    def known(self, *sets: str) -> list[str]:
        """Those of the settings whose option this program has."""
        return [s for s in sets if self.has(s.partition("=")[0])]

    def run_uninterrupted(self, world: int) -> Uninterrupted:
        """Once for each world."""
        if world not in self.uninterrupted:
            started = time.monotonic()
            run = Run(self, self.scratch / f"uninterrupted-{world}", world)
            run.wait_for_steps(1)
            start_s = time.monotonic() - started
            run.expect_complete()
            whole_s = time.monotonic() - started
            self.uninterrupted[world] = Uninterrupted(run.run_dir, start_s, whole_s)
        return self.uninterrupted[world]


class Run(trestle.Training):
    """A start of the recipe; the next in the same directory goes on from its checkpoints."""

    def __init__(self, setup: Setup, run_dir: Path, world: int, *sets: str,
                 options: tuple[str, ...] = (), mpirun: bool = False, codes: Path | None = None):
        """`mpirun`: also for one rank. `codes`: a folder where each rank's exit code is put."""
        launcher: tuple[str, ...] = ()
        environment = {}
        if world > 1 or mpirun:
            launcher = ("mpirun", "-n", str(world), "--bind-to", "none")
        if codes:
            launcher += trestle.WITNESS
            # mpirun's patience, so that a busy machine is not what is tested.
            environment = {"ENDED": str(codes), "OMPI_MCA_odls_base_sigkill_timeout": "10"}
        self.setup, self.world, self.launched = setup, world, bool(launcher)
        self.checkpoints = run_dir / "checkpoints"
        self.before = set(self.entries())
        self.started = time.monotonic()
        # Without a thread that reads ahead more than it must, and with deletes.
        kept = setup.known(f"checkpoint.keep_last={KEPT}")
        super().__init__(setup.program, run_dir, *kept, *sets, launcher=launcher, options=options,
                         environment=environment, recipe=RECIPE)
        setup.runs.append(self)

    def stop(self) -> None:
        if self.over():
            return
        here = psutil.Process(self.process.pid)
        for process in (*here.children(recursive=True), here):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def living(self) -> dict[int, psutil.Process]:
        """The processes by rank; those that are not there yet, or no more, are left out."""
        try:
            here = psutil.Process(self.process.pid)
            if not self.launched:
                return {0: here} if here.is_running() else {}
            found = {}
            for process in here.children(recursive=True):
                try:
                    if process.name() == self.program:
                        found[int(process.environ()["OMPI_COMM_WORLD_RANK"])] = process
                except (psutil.Error, KeyError):
                    continue
            return found
        except psutil.Error:
            return {}

    def over(self) -> bool:
        return self.process.poll() is not None

    def entries(self) -> list[str]:
        """What stands in the folder of checkpoints."""
        try:
            return os.listdir(self.checkpoints)
        except FileNotFoundError:
            return []

    def new_entries(self, prefix: str) -> list[str]:
        """Those that this start has made."""
        return [e for e in self.entries() if e.startswith(prefix) and e not in self.before]

    def wait_for_text(self, text: str) -> None:
        """Until rank 0 has said so."""
        trestle.wait_until(lambda: text in self.said() or self.over(), f'"{text}"', PATIENCE_S)
        expect(text in self.said(), f'ended before it said "{text}"\n{self.said()}')

    def ended(self) -> int:
        """Its exit code. A run that does not end is a finding, and so is a rank that stays."""
        try:
            code = self.end(PATIENCE_S)
            trestle.wait_until(lambda: not self.left_behind(), "the last rank to go", 10)
        except AssertionError as stuck:
            raise Broken(str(stuck)) from None
        return code

    def left_behind(self) -> list[psutil.Process]:
        """Processes that work in this run directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == self.program and str(self.run_dir) in process.cmdline() and \
                        process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def expect_complete(self) -> None:
        code = self.ended()
        expect(code == 0, f"exit code {code} instead of 0\n{self.said()}")


def saved_steps(run_dir: Path) -> list[int]:
    """Of the checkpoints that have their final names, ascending."""
    names = os.listdir(run_dir / "checkpoints") if (run_dir / "checkpoints").is_dir() else []
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d{8}", name))


def checkpoint(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08}"


def steps_done(run_dir: Path) -> int:
    metrics = run_dir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def expect_whole(setup: Setup, folder: Path) -> None:
    """The program finds every byte of the checkpoint as it was written."""
    verified = trestle.run(setup.program, "inspect", folder, "--verify")
    expect(verified.returncode == 0,
           f"{folder.name} is damaged: {verified.stdout}{verified.stderr}")


def expect_valid_newest(setup: Setup, run_dir: Path, before: int | None) -> int | None:
    """The step of the newest checkpoint, which is whole and not older than `before`; None where
    nothing was saved yet. The others that have a final name hold the files that they list, `latest`
    names one that is there, and none was found damaged."""
    steps = saved_steps(run_dir)
    entries = os.listdir(run_dir / "checkpoints") if (run_dir / "checkpoints").is_dir() else []
    expect(not [e for e in entries if "damaged" in e], f"damage was found: {sorted(entries)}")
    if not steps:
        expect(before is None, f"step {before} was saved, and now there is no checkpoint: "
               f"{sorted(entries)}")
        return None
    expect(before is None or steps[-1] >= before,
           f"step {before} was saved, and the newest is now {steps[-1]}")
    expect_whole(setup, checkpoint(run_dir, steps[-1]))
    for step in steps[:-1]:
        folder = checkpoint(run_dir, step)
        try:
            listed = {f["name"]: f["bytes"] for f in trestle.Checkpoint(folder).manifest["files"]}
            found = {name: (folder / name).stat().st_size for name in listed}
        except (OSError, ValueError) as error:
            raise Broken(f"{folder.name} is not whole: {error}") from None
        expect(found == listed, f"{folder.name} lists {listed} and holds {found}")
    latest = run_dir / "checkpoints" / "latest"
    if latest.exists():
        named = latest.read_text().strip()
        expect(named in entries, f'"latest" names {named}, and there are {sorted(entries)}')
    return steps[-1]


def differing(a: Path, b: Path) -> list[str]:
    """Names of tensors and values that two checkpoints do not share to the bit."""
    one, other = trestle.Checkpoint(a), trestle.Checkpoint(b)
    left, right = one.tensors(""), other.tensors("")
    names = [n for n in left.keys() | right.keys() if n not in left or n not in right
             or left[n].dtype != right[n].dtype or left[n].tobytes() != right[n].tobytes()]
    values, theirs = one.manifest["values"], other.manifest["values"]
    names += [n for n in values.keys() | theirs.keys()
              if n not in OWN_TIMES and values.get(n) != theirs.get(n)]
    return sorted(names)


def expect_same_end(setup: Setup, run_dir: Path, world: int) -> None:
    """Weights, averages, moments and losses are those of a run that nothing disturbed, to the bit;
    no step is missing or there twice; nothing half-made is left."""
    wanted = setup.run_uninterrupted(world).run_dir
    last, reference = checkpoint(run_dir, STEPS), checkpoint(wanted, STEPS)
    expect(last.is_dir(), f"the last step is not saved: {saved_steps(run_dir)}")
    names = differing(last, reference)
    expect(not names, f"the final state differs from that of an uninterrupted run in "
           f"{len(names)} tensors and values: {', '.join(names[:5])}")
    if setup.compares:
        compared = trestle.run(setup.program, "inspect", last, "--diff", reference)
        expect(compared.returncode == 0,
               f"inspect --diff finds differences that h5py does not: {compared.stdout}")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    expect([line["step"] for line in lines] == list(range(STEPS)),
           f"metrics.jsonl has the steps {[line['step'] for line in lines]}")
    expect(np.array_equal(trestle.losses(run_dir), trestle.losses(wanted)), "losses differ")
    left_over = [e for e in os.listdir(run_dir / "checkpoints") if e.startswith(".")]
    expect(not left_over, f"left over: {left_over}")
    if setup.has("checkpoint.keep_last"):
        steps = saved_steps(run_dir)
        expect(len(steps) <= KEPT, f"keep_last = {KEPT}, and there are {steps}")


class Rounds:
    """One kind of disturbance: rounds, each repeatable on its own from the seed and its number."""

    name = ""
    help = ""

    def __init__(self, setup: Setup, count: int, seed: int) -> None:
        self.setup, self.count, self.seed = setup, count, seed

    def rounds(self) -> int:
        raise NotImplementedError

    def run(self, number: int, folder: Path, tell) -> None:  # noqa: ANN001
        """Raises Broken. `tell` is given a dictionary for each disturbance that has come off."""
        raise NotImplementedError


def copy_of(run_dir: Path, step: int, into: Path) -> Path:
    """A run directory that knows nothing but this checkpoint."""
    shutil.copytree(checkpoint(run_dir, step), checkpoint(into, step))
    return into
