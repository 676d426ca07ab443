"""What the tests of the built program share: running it, its data, and its checkpoints."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import psutil

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
TINY = TESTS / "recipes" / "tiny.toml"

# One thread a rank, and more ranks than cores; as root, too.
MPI_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                   "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}


# A rank in a shell that only waits for it and writes down, in $ENDED, how it ended.
WITNESS = ("sh", "-c", 'trap "" INT TERM USR2 CONT; "$@"; echo $? >"$ENDED/$OMPI_COMM_WORLD_RANK"',
           "witness")


def take_program(documentation: str) -> Path:
    """The program that --trestle names. What else the command line says is left to unittest."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    known, sys.argv[1:] = parser.parse_known_args()
    return known.trestle.resolve()


def settings(*values: str) -> list[str]:
    """Recipe values as arguments of the program."""
    return [argument for value in values for argument in ("--set", value)]


def make_data(folder: Path, size: int = 16, crops: int = 24, heldout: int = 8) -> Path:
    """A small folder of picture pairs, made by the quickstart's own tool."""
    command = [sys.executable, ROOT / "tools" / "make_quickstart_data", "--out", folder,
               "--size", size, "--crops", crops, "--heldout", heldout]
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
    return folder


def run(program: Path | str, *arguments: object, ranks: int = 0, cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        timeout: float = 120) -> subprocess.CompletedProcess:
    """Runs the program, under mpirun when ranks > 0; returns its exit code and output."""
    command = [str(program), *map(str, arguments)]
    if ranks > 0:
        command = ["mpirun", "-n", str(ranks), "--bind-to", "none", *command]
    variables = {**os.environ, **MPI_ENVIRONMENT, **(environment or {})}
    return subprocess.run(command, cwd=cwd, env=variables, timeout=timeout, text=True,
                          capture_output=True)


def run_for_codes(program: Path, *arguments: object, ranks: int,
                  **kwargs) -> tuple[list[int], subprocess.CompletedProcess]:
    """Like run(), and the exit code of each rank (mpirun tells of one only)."""
    result = run("/bin/sh", "-c", '"$0" "$@"; echo "exit code $?"', program, *arguments,
                 ranks=ranks, **kwargs)
    return [int(code) for code in re.findall(r"^exit code (\d+)$", result.stdout, re.M)], result


def checked(result: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """Fails with everything that was printed unless the program ended well."""
    if result.returncode != 0:
        said = result.stdout + result.stderr
        raise AssertionError(f"{result.args} exited {result.returncode}\n{said}")
    return result


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.005)


class Training:
    """A training run of the tiny recipe, or another, in the background."""

    def __init__(self, program: Path, run_dir: Path, *sets: str, launcher: tuple[str, ...] = (),
                 options: tuple[str, ...] = (), environment: dict[str, str] | None = None,
                 recipe: Path = TINY, output: Path | None = None):
        """What it says goes to `output`, or else to a file in the run directory."""
        self.run_dir = run_dir
        self.program = program.name
        command = [*launcher, str(program), "train", str(recipe), "--run-dir", str(run_dir),
                   *settings(*sets), *options]
        variables = {**os.environ, **MPI_ENVIRONMENT, **(environment or {})}
        run_dir.mkdir(parents=True, exist_ok=True)
        self.output = output or run_dir / "output.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, env=variables, stdout=output,
                                            stderr=subprocess.STDOUT, start_new_session=True)

    def steps(self) -> int:
        """How many are done, which is how many lines metrics.jsonl has."""
        metrics = self.run_dir / "metrics.jsonl"
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def wait_for_steps(self, steps: int) -> None:
        wait_until(lambda: self.steps() >= steps or self.process.poll() is not None,
                   f"step {steps}")
        if self.process.poll() is not None and self.steps() < steps:
            raise AssertionError(f"ended with {self.process.returncode}\n{self.said()}")

    def ranks(self) -> list[psutil.Process]:
        """The program's processes, by rank."""
        found = [p for p in psutil.Process(self.process.pid).children(recursive=True)
                 if p.name() == self.program]
        return sorted(found, key=lambda p: int(p.environ()["OMPI_COMM_WORLD_RANK"]))

    def said(self) -> str:
        return self.output.read_text()

    def end(self, seconds: float = 60) -> int:
        """Waits for the exit code; a run that does not end in time is killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s\n{self.said()}") from None


class SmallDisk:
    """A tmpfs of its own. Mounting takes rights that not every machine gives."""

    def __init__(self, folder: Path, size: int):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                       check=True, capture_output=True)

    def fill_up_to(self, free_bytes: int) -> Path:
        """Leaves that many free bytes; the file that takes the others."""
        ballast = self.folder / "ballast"
        available = shutil.disk_usage(self.folder).free
        ballast.write_bytes(b"\0" * (available - free_bytes))
        return ballast

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Checkpoint:
    """A checkpoint as h5py and the manifest show it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())

    def tensor(self, name: str) -> np.ndarray:
        """One logical tensor, put together from the pieces of all files."""
        record = self.manifest["tensors"][name]
        flat = np.concatenate([self._piece(p).reshape(-1) for p in record["pieces"]])
        return flat.reshape(record["shape"])

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        return {n: self.tensor(n) for n in self.manifest["tensors"] if n.startswith(prefix)}

    def file_bytes(self) -> list[int]:
        return [f["bytes"] for f in self.manifest["files"]]

    def _piece(self, piece: dict) -> np.ndarray:
        with h5py.File(self.folder / piece["file"], "r") as file:
            return file[piece["dataset"]][()]


def last_checkpoint(run_dir: Path) -> Checkpoint:
    return Checkpoint(max((run_dir / "checkpoints").glob("step-*")))


def losses(run_dir: Path) -> np.ndarray:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """|a - b| / |b| over all tensors together, in fp64."""
    assert a.keys() == b.keys()
    difference = sum(float(((a[n].astype(np.float64) - b[n]) ** 2).sum()) for n in a)
    size = sum(float((b[n].astype(np.float64) ** 2).sum()) for n in b)
    return (difference / size) ** 0.5
