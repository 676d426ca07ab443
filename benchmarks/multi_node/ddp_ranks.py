#!/usr/bin/env python3
"""Trains Sana in PyTorch over ranks, a round at a time, and says how fast and what was sent.

The contender of multi_node_trestle: diffusers' model as in sana_step under DistributedDataParallel
over gloo, torch's AdamW(fused), clipping and diffusers' EMAModel on every rank. On one rank there
is no DDP, which would only cost.

    MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 mpirun -n 2 benchmarks/multi_node/ddp_ranks.py

Rank and size come from mpirun or srun. Rank 0 reads the requests and answers. For "go N" all take N
steps; for "parts N" each part of a step alone, N times: forward, backward (without communication),
optimizer (clipping, AdamW, average) and the all-reduce of all gradients in DDP's bucket size.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "sana_step")]
import gloo  # noqa: E402
from diffusers_step import Trainer  # noqa: E402
from rounds import serve  # noqa: E402

MEGABYTE = 1024 * 1024  # as DDP counts


class SentBytes:
    """Bytes that the hosts of these ranks have sent through their interfaces of this name."""

    def __init__(self, interface: str) -> None:
        self.file = Path(f"/sys/class/net/{interface}/statistics/tx_bytes")
        hosts: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(hosts, socket.gethostname())
        first = hosts.index(socket.gethostname()) == dist.get_rank()  # one rank a host
        self.counts = bool(interface) and first

    def read(self) -> int:
        """Since the start of the hosts. Collective."""
        mine = int(self.file.read_text()) if self.counts else 0
        total = torch.tensor(mine, dtype=torch.int64)
        dist.all_reduce(total)
        return int(total)


class Ranks:
    """The trainer of one rank, and what all of them do together."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.batch, self.ranks = arguments.batch, dist.get_world_size()
        workload = json.loads(arguments.workload.read_text())
        self.trainer = Trainer(workload, arguments.batch, micro_batch=arguments.batch)
        torch.manual_seed(1 + dist.get_rank())
        self.model = self.trainer.model
        bf16 = arguments.wire == "bf16"
        numel = sum(parameter.numel() for parameter in self.trainer.parameters)
        cap_mb = arguments.bucket_cap_mb or min(25.0, 4 * numel / 8 / MEGABYTE)
        if self.ranks > 1:
            self.trainer.model = DistributedDataParallel(
                self.model,
                bucket_cap_mb=cap_mb,
                gradient_as_bucket_view=True,
                static_graph=True,
            )
            if bf16:
                self.trainer.model.register_comm_hook(None, bf16_compress_hook)
        self.sent = SentBytes(arguments.interface)
        dtype = torch.bfloat16 if bf16 else torch.float32
        bucket = int(cap_mb * MEGABYTE) // 4  # the hook rounds fp32 buckets
        self.buckets = torch.zeros(numel, dtype=dtype).split(bucket)

    def go(self, steps: int) -> dict[str, float] | None:
        """Takes the steps."""
        before = self.sent.read()
        dist.barrier()
        wall = time.perf_counter()
        loss = sum(self.trainer.step() for _ in range(steps)) / steps
        dist.barrier()
        wall = time.perf_counter() - wall
        sent = self.sent.read() - before
        if dist.get_rank() > 0:
            return None
        return {
            "samples_per_s": steps * self.batch * self.ranks / wall,
            "step_ms": 1e3 * wall / steps,
            "sent_bytes_per_step": sent / steps,
            "loss": loss,
            "parameters": sum(parameter.numel() for parameter in self.trainer.parameters),
        }

    def parts(self, repetitions: int) -> dict[str, float] | None:
        """Each part alone, the mean of that many, of the slowest rank."""
        with_ddp, self.trainer.model = self.trainer.model, self.model  # no hooks, nothing sent
        forward, backward, update = [], [], []
        dist.barrier()
        for _ in range(repetitions):
            began = time.perf_counter()
            loss = self.trainer.forward()
            forward.append(time.perf_counter() - began)
            began = time.perf_counter()
            loss.backward()
            backward.append(time.perf_counter() - began)
            self.trainer.optimizer.zero_grad()
        self.trainer.model = with_ddp
        for _ in range(repetitions):
            for parameter in self.trainer.parameters:
                parameter.grad = torch.full_like(parameter, 1e-3)
            dist.barrier()
            began = time.perf_counter()
            self.trainer.update()
            update.append(time.perf_counter() - began)
        dist.barrier()
        began = time.perf_counter()
        for _ in range(repetitions):
            self.all_reduce()
        exchange = time.perf_counter() - began
        parts = {
            "forward_ms": gloo.largest(1e3 * sum(forward) / repetitions),
            "backward_ms": gloo.largest(1e3 * sum(backward) / repetitions),
            "optimizer_ms": gloo.largest(1e3 * sum(update) / repetitions),
            "all_reduce_ms": gloo.largest(1e3 * exchange / repetitions),
        }
        return parts if dist.get_rank() == 0 else None

    def all_reduce(self) -> None:
        """All gradients, as DDP would if they came at once."""
        works = [dist.all_reduce(bucket, async_op=True) for bucket in self.buckets]
        for work in works:
            work.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workload",
        type=Path,
        default=HERE / "workload.json",
        help="model, sizes and optimizer settings (default: workload.json beside this file)",
    )
    parser.add_argument("--batch", type=int, default=4, help="samples a step on each rank")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads of each rank")
    parser.add_argument("--interface", default="", help="the hosts' network interface, counted")
    parser.add_argument("--wire", choices=("fp32", "bf16"), default="fp32", help="of gradients")
    parser.add_argument(
        "--bucket-cap-mb",
        type=float,
        help="DDP's (default: 25 or an eighth of the gradients, what is less, as Trestle's)",
    )
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with gloo.ranks():
        ranks = Ranks(arguments)
        return serve({"go": ranks.go, "parts": ranks.parts}, gloo.requests())


if __name__ == "__main__":
    sys.exit(main())
