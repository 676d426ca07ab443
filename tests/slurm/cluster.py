"""A real Slurm on this machine: munged, slurmctld and a slurmd for each of its nodes, in one
temporary folder, on free ports. They and all that their jobs start share a namespace of process
numbers, so nothing outlives the cluster, however the test ends.

    with Cluster(nodes=2) as cluster:
        job = cluster.sbatch("slurm/train.sbatch", "recipe.toml")
        cluster.wait_for_state(job, "COMPLETED")

Every node has a private /tmp and /dev/shm, because Slurm's PMIx plugin and Open MPI make files
there that are named after the job alone. A requeued job may start again
after some seconds instead of two minutes (`cred_expire`), and a dead node is noticed sooner than
on a cluster (`SlurmdTimeout`); all else is what a site has.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
LAST_STATES = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
CPUS = 8  # that each node claims, whatever the machine has

SLURM_CONF = """\
ClusterName=trestle-test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdDebug=verbose
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
KillWait={kill_wait}
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


def why_not() -> str:
    """Why no Slurm can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "only root can start Slurm's daemons"
    missing = [p for p in PROGRAMS if not find_program(p)]
    if missing:
        return f"not installed: {', '.join(missing)} (launch/setup --tests does)"
    if subprocess.run([*keeper(), "true"], capture_output=True).returncode != 0:
        return "namespaces of mounts and processes are forbidden here"
    return ""


def own_mounts() -> list[str]:
    """What a command starts with to see mounts of its own."""
    command = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
        return command
    return ["unshare", "--mount", "--propagation", "unchanged"]  # in a chroot, "/" is no mount


def keeper() -> list[str]:
    """What a command starts with to be the first of a process namespace that ends with us."""
    return ["setpriv", "--pdeathsig", "KILL", *own_mounts(), "--pid", "--fork", "--kill-child",
            "--mount-proc"]


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition, what: str, seconds: float = 240):
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
    return value


class Cluster:
    def __init__(self, nodes: int = 2, slurmd_timeout_s: int = 6, kill_wait_s: int = 30):
        self.folder = Path(tempfile.mkdtemp(prefix="trestle-slurm-"))
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        controller_port, *node_ports = free_ports(1 + nodes)
        lines = [f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 "
                 f"Port={port} CPUs={CPUS} State=UNKNOWN"
                 for name, port in zip(self.nodes, node_ports)]
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(
            host=socket.gethostname(), folder=self.folder, controller_port=controller_port,
            slurmd_timeout=slurmd_timeout_s, kill_wait=kill_wait_s, nodes="\n".join(lines)))
        (self.folder / "state").mkdir()
        self.environment = {
            **{k: v for k, v in os.environ.items()
               if not k.startswith(("SLURM", "SBATCH", "OMPI_", "PMIX_"))},
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        self.daemons: dict[str, subprocess.Popen] = {}
        self.keeper: subprocess.Popen | None = None

    # ---- life -----------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.folder.chmod(0o755)  # munged wants every user to reach its socket
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.keeper = subprocess.Popen([*keeper(), "sleep", "infinity"], env=self.environment,
                                       stdin=subprocess.DEVNULL)
        self.init = wait_for(self._find_init, "a process namespace")
        self._daemon("munged", ["munged", "--foreground", "--force", f"--key-file={key}",
                                f"--socket={self.folder}/munge.socket",
                                f"--pid-file={self.folder}/munged.pid",
                                f"--seed-file={self.folder}/munged.seed", "--num-threads=4"])
        self._wait_for_daemons((self.folder / "munge.socket").exists, "munged")
        self._daemon("slurmctld", ["slurmctld", "-D", "-i"])
        for name in self.nodes:
            self.start_node(name)
        self._wait_for_daemons(lambda: set(self.nodes) == set(self.idle_nodes()),
                               "the nodes to be idle")

    def _wait_for_daemons(self, condition, what: str) -> None:
        """None of them may end meanwhile."""
        def ready() -> bool:
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    said = (self.folder / f"{name}.output").read_text()
                    raise AssertionError(f"{name} ended with {daemon.returncode}\n{said}")
            return condition()
        wait_for(ready, what)

    def _find_init(self) -> int:
        """The first process of the namespace, once it is what it shall be."""
        for child in psutil.Process(self.keeper.pid).children():
            if child.name() == "sleep":
                return child.pid
        return 0

    def start_node(self, name: str) -> None:
        self._daemon(name, [*own_mounts(), "bash", "-c", self._private_folders(name), "slurmd",
                            "-D", "-N", name])

    def _private_folders(self, name: str) -> str:
        """Hides the machine's /tmp, but not what the tests keep there."""
        private = self.folder / f"tmp-{name}"
        lines = ["set -e"]
        for kept in {self.folder, ROOT}:
            if kept.is_relative_to("/tmp"):
                inside = private / kept.relative_to("/tmp")
                lines += [f"mkdir -p '{inside}'", f"mount --rbind '{kept}' '{inside}'"]
        private.mkdir(exist_ok=True)
        private.chmod(0o1777)
        lines += [f"mount --rbind '{private}' /tmp", "mount -t tmpfs tmpfs /dev/shm",
                  'exec "$0" "$@"']
        return "\n".join(lines)

    def _daemon(self, name: str, command: list[str]) -> None:
        inside = ["nsenter", "--target", str(self.init), "--pid", "--mount", "--root", "--"]
        with (self.folder / f"{name}.output").open("w") as output:
            self.daemons[name] = subprocess.Popen(
                [*inside, *command], env=self.environment, stdout=output,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def kill_slurmd(self, name: str) -> None:
        """It is gone at once; what it started lives on."""
        self._slurmd(name).kill()
        self.daemons.pop(name).wait()

    def _slurmd(self, name: str) -> psutil.Process:
        return psutil.Process(self.daemons[name].pid).children()[0]

    def processes(self) -> list[psutil.Process]:
        """All that runs in this cluster: daemons, job steps, ranks."""
        return self._sharing("pid", self.init)

    @staticmethod
    def _sharing(kind: str, pid: int) -> list[psutil.Process]:
        """The processes that share a namespace of this kind with `pid`."""
        mine, space = [], os.stat(f"/proc/{pid}/ns/{kind}").st_ino
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.stat(f"/proc/{process.pid}/ns/{kind}").st_ino == space:
                    mine.append(process)
        return mine

    def close(self) -> None:
        if self.keeper:
            self.keeper.kill()
            self.keeper.wait()
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- commands -------------------------------------------------------------------------------

    def run(self, *command: object, check: bool = True,
            environment: dict[str, str] | None = None) -> str:
        result = subprocess.run([str(c) for c in command], text=True, capture_output=True,
                                env={**self.environment, **(environment or {})}, timeout=60)
        if check and result.returncode != 0:
            raise AssertionError(f"{result.args} exited {result.returncode}\n"
                                 f"{result.stdout}{result.stderr}")
        return result.stdout.strip()

    def idle_nodes(self) -> list[str]:
        return self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()

    def sbatch(self, *arguments: object, environment: dict[str, str] | None = None) -> int:
        said = self.run("sbatch", "--parsable", *arguments, environment=environment)
        return int(said.splitlines()[-1].split(";")[0])

    def field(self, job: object, name: str) -> str:
        """A field of `scontrol show job`, empty where it has none."""
        shown = self.run("scontrol", "-o", "show", "job", job, check=False)
        found = re.search(rf"(?:^| ){name}=(\S*)", shown)
        return found.group(1) if found else ""

    def state(self, job: object) -> str:
        return self.field(job, "JobState")

    def restarts(self, job: object) -> int:
        return int(self.field(job, "Restarts") or 0)

    def wait_for_state(self, job: object, *states: str, seconds: float = 240) -> str:
        def reached() -> str:
            state = self.state(job)
            if state in LAST_STATES and state not in states:
                raise AssertionError(f"job {job} is {state} instead of {' or '.join(states)}")
            return state if state in states else ""
        try:
            return wait_for(reached, f"job {job} to be {' or '.join(states)}", seconds)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.run('scontrol', 'show', 'job', job, check=False)}") from None

    def signal_job(self, job: object, number: signal.Signals) -> None:
        self.run("scancel", f"--signal={number.name.removeprefix('SIG')}", job)
