#!/usr/bin/env python3
"""Steps torch's AdamW and diffusers' EMA over random state, a round at a time, and says how fast.

The contender of optimizer_pass_trestle: what a Python user runs for the same state once the
gradients' norm is known. One step is torch.nn.utils.clip_grads_with_norm_, AdamW(fused=True),
EMAModel(foreach=True), a bf16 copy of the masters and zero_grad(set_to_none=False).

For "go N" on standard input it takes N steps and answers one JSON line: ms_per_step (wall clock),
cpu_ms_per_step (CPU time of all threads) and elements. It ends with its input. The first "go" pays
for warming up.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rounds import serve  # noqa: E402


class State:
    """Masters with gradients, their optimizer, average and bf16 copies."""

    def __init__(self, elements: int, tensors: int) -> None:
        borders = [elements * i // tensors for i in range(tensors + 1)]
        sizes = [end - begin for begin, end in zip(borders, borders[1:], strict=False)]
        self.masters = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
        for master in self.masters:
            master.grad = torch.randn_like(master).mul_(1e-3)
        self.copies = [master.detach().bfloat16() for master in self.masters]
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-4, fused=True)
        self.average = EMAModel(self.masters, decay=0.999, foreach=True)
        self.norm = torch.tensor(2.0)

    @torch.no_grad()
    def step(self) -> None:
        """One optimizer step; the norm halves the gradients."""
        torch.nn.utils.clip_grads_with_norm_(self.masters, 1.0, self.norm, foreach=True)
        self.optimizer.step()
        self.average.step(self.masters)
        torch._foreach_copy_(self.copies, self.masters)
        self.optimizer.zero_grad(set_to_none=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--elements", type=int, default=2**26, help="of all tensors (default 2^26)")
    parser.add_argument("--tensors", type=int, default=64, help="tensors (default 64)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    state = State(arguments.elements, arguments.tensors)

    def go(steps: int) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            state.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {
            "ms_per_step": 1e3 * wall / steps,
            "cpu_ms_per_step": 1e3 * cpu / steps,
            "elements": sum(master.numel() for master in state.masters),
        }

    return serve({"go": go})


if __name__ == "__main__":
    sys.exit(main())
