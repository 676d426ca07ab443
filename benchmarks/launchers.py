"""How the ranks of a case come to life: hosts made on this machine, or those of a Slurm job."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from contest import ROOT, output_of  # noqa: E402

TWO_HOSTS = HERE / "two_hosts"
UNSHAPED = "none"


@dataclasses.dataclass(frozen=True)
class Case:
    """So many ranks on so many hosts, whose link is limited to a rate."""

    hosts: int
    ranks_per_host: int
    rate: str = UNSHAPED

    @property
    def ranks(self) -> int:
        return self.hosts * self.ranks_per_host

    @classmethod
    def parse(cls, text: str) -> Case:
        found = re.fullmatch(r"(\d+)x(\d+)(?:@(\w+))?", text)
        if not found or "0" in found.group(1, 2):
            raise argparse.ArgumentTypeError(
                f'"{text}" is no case (HOSTSxRANKS of each, and where they are limited @RATE). '
                "Say 2x1@1gbit."
            )
        return cls(int(found[1]), int(found[2]), found[3] or UNSHAPED)

    def __str__(self) -> str:
        rate = "" if self.rate == UNSHAPED else f"@{self.rate}"
        return f"{self.hosts}x{self.ranks_per_host}{rate}"


class Namespaces:
    """Two hosts of this machine (two_hosts), which live until the `with` block ends."""

    name = "network namespaces of one machine"
    cases = ("1x1", "1x2", "1x4", "2x1", "2x1@1gbit", "2x1@200mbit",
             "2x2", "2x2@1gbit", "2x2@200mbit")  # fmt: skip
    hosts = ("trestle-a", "trestle-b")
    interface = "link0"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> Namespaces:
        self.two_hosts("up")
        return self

    def __exit__(self, *_: object) -> None:
        self.two_hosts("down")

    @staticmethod
    def two_hosts(*words: str) -> None:
        done = subprocess.run([str(TWO_HOSTS), *words], check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)

    def allows(self, case: Case) -> bool:
        return case.hosts <= len(self.hosts)

    def prepare(self, case: Case) -> None:
        self.two_hosts("rate", case.rate)

    def command(self, case: Case, program: list[str]) -> list[str]:
        places = ",".join(f"{host}:{case.ranks_per_host}" for host in self.hosts[: case.hosts])
        settings = {
            "plm_rsh_agent": f"{TWO_HOSTS} agent",
            "oob_tcp_if_include": self.interface,
            "btl_tcp_if_include": self.interface,
            "rmaps_base_oversubscribe": "1",
        }
        environment = {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "MASTER_ADDR": "127.0.0.1" if case.hosts == 1 else "10.77.0.1",
            "MASTER_PORT": "29500",  # nobody else listens in these namespaces
            "GLOO_SOCKET_IFNAME": "lo" if case.hosts == 1 else self.interface,
        }
        command = [str(TWO_HOSTS), "exec", self.hosts[0], "mpirun", "--allow-run-as-root"]
        command += ["-n", str(case.ranks), "-host", places, "--bind-to", "none"]
        for key, value in settings.items():
            command += ["--mca", key, value]
        for key, value in environment.items():
            command += ["-x", f"{key}={value}"]
        return [*command, "-wdir", str(ROOT), *program]


class Slurm:
    """The nodes of the job that this runs in. Links are as they are."""

    name = "nodes of a Slurm job"

    def __init__(self, threads: int, interface: str) -> None:
        self.threads = threads
        self.interface = interface
        self.nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
        per_node = re.match(r"\d+", os.environ["SLURM_TASKS_PER_NODE"])  # "4(x2)"
        ranks = int(per_node.group())
        hosts = [2**power for power in range(self.nodes.bit_length())]
        if self.nodes not in hosts:
            hosts.append(self.nodes)
        counts = {1: None, ranks: None}
        self.cases = tuple(f"{host}x{count}" for host in hosts for count in counts)
        self.port = 29500 + int(os.environ["SLURM_JOB_ID"]) % 10000

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def allows(self, case: Case) -> bool:
        return case.hosts <= self.nodes and case.rate == UNSHAPED

    def prepare(self, case: Case) -> None:
        self.port += 1  # the last case's may not be free yet

    def command(self, case: Case, program: list[str]) -> list[str]:
        nodes = output_of(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]])
        first = nodes.splitlines()[0]
        environment = {
            "MASTER_ADDR": socket.gethostbyname(first),
            "MASTER_PORT": str(self.port),
        }
        if self.interface:
            environment["GLOO_SOCKET_IFNAME"] = self.interface
        # --overlap: both contenders live, and one of them works. --input=0: requests go to rank 0.
        return [
            "srun", "--mpi=pmix", "--overlap", "--input=0", "--kill-on-bad-exit=1",
            f"--nodes={case.hosts}", f"--ntasks={case.ranks}",
            f"--ntasks-per-node={case.ranks_per_host}", f"--cpus-per-task={self.threads}",
            "--export=ALL," + ",".join(f"{key}={value}" for key, value in environment.items()),
            f"--chdir={ROOT}", *program,
        ]  # fmt: skip
