"""What the tests of the built program share: running it, its data, and its checkpoints."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
TINY = TESTS / "recipes" / "tiny.toml"

# One thread a rank, and more ranks than cores; as root, too.
MPI_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                   "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}


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
