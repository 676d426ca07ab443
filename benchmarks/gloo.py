"""What the Python contenders of several ranks share: joining the ranks that mpirun or srun started,
requests that rank 0 reads, and times of the slowest rank.

    with gloo.ranks():
        serve({"go": go}, gloo.requests())
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist


def from_launcher(*names: str) -> int | None:
    """The first of these variables that the launcher has set."""
    return next((int(os.environ[name]) for name in names if name in os.environ), None)


@contextlib.contextmanager
def ranks() -> Iterator[None]:
    """All ranks while the block lasts; MASTER_ADDR and MASTER_PORT say where they meet."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500")
    dist.init_process_group(
        "gloo",
        rank=from_launcher("OMPI_COMM_WORLD_RANK", "SLURM_PROCID") or 0,
        world_size=from_launcher("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS") or 1,
    )
    yield
    dist.destroy_process_group()


def requests() -> Iterator[str]:
    """Rank 0's standard input, on every rank."""
    while True:
        line = [sys.stdin.readline() if dist.get_rank() == 0 else ""]
        dist.broadcast_object_list(line, src=0)
        if not line[0]:
            return
        yield line[0]


def largest(value: float) -> float:
    """Of all ranks'."""
    number = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return float(number)
