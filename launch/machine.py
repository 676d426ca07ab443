"""Prints three numbers for the scripts of launch/: CPUs, cores and compile jobs.

nproc is not enough: a container's quota is a fraction of what it shows, two hyperthreads are one
core to a rank, and a file that includes torch needs about 2 GB to compile.
"""

import math
import os
from pathlib import Path

COMPILE_BYTES = 2 << 30


def first_number(*paths: str) -> float:
    """The first number in the first of these files that holds one ("max" is none); else inf."""
    for path in paths:
        try:
            return float(Path(path).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            continue
    return math.inf


def quota_cpus() -> float:
    """CPUs that the container may keep busy, inf without a limit (cgroup v2, then v1)."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        quota = first_number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = first_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
        return quota / period if 0 < quota < math.inf and period < math.inf else math.inf


def memory_bytes() -> float:
    """Memory that is free to compile in, within the container's limit."""
    limit = first_number("/sys/fs/cgroup/memory.max",
                         "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(limit, float(line.split()[1]) * 1024)
    return limit


def main() -> None:
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(path.read_text().strip() if path.exists() else str(cpu))
    quota = max(1, math.ceil(quota_cpus())) if quota_cpus() < math.inf else math.inf
    cpus = min(len(allowed), quota)
    cores = min(len(siblings), quota)
    jobs = max(1, min(cpus, memory_bytes() // COMPILE_BYTES))
    print(int(cpus), int(cores), int(jobs))


main()
