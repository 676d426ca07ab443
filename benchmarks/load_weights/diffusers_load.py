#!/usr/bin/env python3
"""diffusers' side of benchmarks/load_weights: from_pretrained, then every page touched.

from_pretrained maps the files and reads nothing. What is done to have the weights decides what is
measured, so --touch says it:

    write   one element of every page is written in place: each page is then the process's own, as
            training needs it and as Trestle's buffer is
    read    one element of every page is read: the pages are the file cache's, and copied only when
            somebody writes to them

Imports are done before the clock starts; the runner counts them as the start, which ends
with the answer to "start 1". A process loads once.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import rounds  # noqa: E402

PAGE_BYTES = 4096


def status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def touch(weights: torch.Tensor, how: str) -> None:
    one_of_a_page = weights.view(-1)[:: PAGE_BYTES // weights.element_size()]
    if how == "write":
        one_of_a_page.add_(0)
    else:
        one_of_a_page.sum()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="torch's (0: its default)")
    parser.add_argument("--touch", choices=["write", "read"], default="write")
    parser.add_argument("--no-mmap", action="store_true", help="disable_mmap=True")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    def load(_steps: int) -> dict[str, float]:
        before = status_bytes("VmRSS:")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        begin, cpu = time.perf_counter(), time.process_time()
        model = SanaTransformer2DModel.from_pretrained(
            arguments.folder, dtype=torch.bfloat16, disable_mmap=arguments.no_mmap
        )
        unread = time.perf_counter() - begin
        for parameter in model.parameters():
            touch(parameter.detach(), arguments.touch)
        return {
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu,
            "from_pretrained_seconds": unread,
            "bytes": sum(parameter.nbytes for parameter in model.parameters()),
            "grown_bytes": status_bytes("VmHWM:") - before,
        }

    return rounds.serve({"start": lambda _steps: {}, "go": load})


if __name__ == "__main__":
    sys.exit(main())
