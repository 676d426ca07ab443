#!/usr/bin/env python3
"""Saves and loads training state with torch.distributed.checkpoint, a round at a time.

The contender of checkpoint_trestle: the same tensors (master, both moments and an average, in fp32,
each divided over the ranks by rows), as DTensors, which is what fully_shard's state dict holds.

    MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 mpirun -n 2 benchmarks/checkpoint/dcp_ranks.py

Rank 0 reads the requests and answers one JSON line to each; times are the slowest rank's, until all
have arrived:

    save 1    dcp.save into a new folder; files are synced (the writer's default)
    plain N   N steps: products that stand for forward and backward, and an update of all the state
    async N   the same, with dcp.async_save before the first
    cached N  the same, into memory that is kept
    load 1    dcp.load of what the last save wrote, into tensors that are there
    check 1   whether what was loaded last is the state

"async" is async_save as it comes: the state is copied before it returns, into new memory. "cached"
copies into memory that is kept (cache_staged_state_dict), as its tutorial advises; without a GPU
nothing is pinned. The third way, a thread that copies beside forward and backward
(use_async_staging), ends in a segmentation fault with DTensors in torch 2.11, so it is not here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed._state_dict_utils import _create_cpu_state_dict
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import gloo  # noqa: E402
from rounds import serve  # noqa: E402

PLANES = ("master", "exp_avg", "exp_avg_sq", "ema")
COLUMNS = 1024
PRODUCT = 512  # the side of the matrices whose products stand for forward and backward


def reset_peak() -> None:
    """From now on VmHWM is the largest resident memory since this."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(key: str) -> int:
    """Bytes that /proc/self/status gives."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


class Ranks:
    """The state of one rank, and what all of them do together."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.folder, self.products = arguments.folder, arguments.products
        rows = arguments.mb * 2**20 // (4 * len(PLANES) * arguments.tensors * COLUMNS)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))

        def state(fill: bool) -> dict[str, DTensor]:
            tensors = {}
            for plane in PLANES:
                for i in range(arguments.tensors):
                    shape = (rows // dist.get_world_size(), COLUMNS)
                    local = torch.randn(shape) if fill else torch.zeros(shape)
                    tensor = DTensor.from_local(local, mesh, [Shard(0)])
                    tensors[f"{plane}/layers.{i}.weight"] = tensor
            return tensors

        self.state, self.loaded = state(fill=True), state(fill=False)
        self.bytes = sum(t.numel() * t.element_size() for t in self.state.values())
        self.matrix = torch.randn(PRODUCT, PRODUCT)
        self.saves = 0
        self.group = dist.new_group()  # of the thread that writes
        # It pins the memory that it keeps, and fails where there is no GPU, unless there is some.
        self.cached = BlockingAsyncStager(cache_staged_state_dict=True)

    def path(self) -> Path:
        return self.folder / f"dcp-{self.saves}"

    def next_path(self) -> Path:
        """For a new save; the last one's is deleted."""
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(self.path(), ignore_errors=True)
        self.saves += 1
        dist.barrier()
        return self.path()

    @staticmethod
    def seconds(began: float) -> float:
        """Until all ranks are here."""
        dist.barrier()
        return time.perf_counter() - began

    def answer(self, **numbers: float) -> dict[str, float] | None:
        return {"bytes": self.bytes, **numbers} if dist.get_rank() == 0 else None

    def save(self, _: int) -> dict[str, float] | None:
        path = self.next_path()
        before = memory("VmRSS")
        reset_peak()
        began = time.perf_counter()
        dcp.save(self.state, checkpoint_id=path)
        save_s = self.seconds(began)
        return self.answer(save_s=save_s, grown_bytes=gloo.largest(memory("VmHWM") - before))

    def forward_and_backward(self) -> None:
        for _ in range(self.products):
            torch.mm(self.matrix, self.matrix)

    def update(self) -> None:
        for tensor in self.state.values():
            tensor.to_local().mul_(1 + 1e-7)

    def steps(self, count: int) -> float:
        """Seconds of all steps."""
        began = time.perf_counter()
        for _ in range(count):
            self.forward_and_backward()
            self.update()
        return self.seconds(began)

    def plain(self, count: int) -> dict[str, float] | None:
        dist.barrier()
        return self.answer(steps_s=self.steps(count))

    def async_as_it_comes(self, count: int) -> dict[str, float] | None:
        return self.asynchronous(count, None)

    def async_cached(self, count: int) -> dict[str, float] | None:
        return self.asynchronous(count, self.cached)

    def asynchronous(
        self, count: int, stager: BlockingAsyncStager | None
    ) -> dict[str, float] | None:
        path = self.next_path()
        before = memory("VmRSS")
        reset_peak()
        if stager and stager.state_dict_cache is None:
            stager.state_dict_cache = _create_cpu_state_dict(self.state)
        ended: list[float] = []
        began = time.perf_counter()
        saved = dcp.async_save(
            self.state, checkpoint_id=path, process_group=self.group, async_stager=stager
        )
        saved.add_done_callback(lambda _: ended.append(time.perf_counter()))
        waited_s = time.perf_counter() - began
        steps_s = waited_s + self.steps(count)
        saved.result()
        saved_s = gloo.largest(ended[0] - began)
        grown_bytes = gloo.largest(memory("VmHWM") - before)
        return self.answer(steps_s=steps_s, saved_s=saved_s, grown_bytes=grown_bytes,
                           waited_s=gloo.largest(waited_s))  # fmt: skip

    def load(self, _: int) -> dict[str, float] | None:
        dist.barrier()
        began = time.perf_counter()
        dcp.load(self.loaded, checkpoint_id=self.path())
        return self.answer(load_s=self.seconds(began))

    def check(self, _: int) -> dict[str, float] | None:
        same = all(torch.equal(self.loaded[n].to_local(), t.to_local())
                   for n, t in self.state.items())  # fmt: skip
        return self.answer(different_ranks=gloo.largest(0.0 if same else 1.0))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints go")
    parser.add_argument("--mb", type=int, default=2048, help="MiB of all state (default 2048)")
    parser.add_argument("--tensors", type=int, default=64, help="parameters (default 64)")
    parser.add_argument("--products", type=int, default=100, help="that a step multiplies")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads of each rank")
    arguments = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with gloo.ranks():
        ranks = Ranks(arguments)
        rounds = {"save": ranks.save, "plain": ranks.plain, "async": ranks.async_as_it_comes,
                  "cached": ranks.async_cached, "load": ranks.load, "check": ranks.check}
        return serve(rounds, gloo.requests())


if __name__ == "__main__":
    sys.exit(main())
