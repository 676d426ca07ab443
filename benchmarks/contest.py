"""What the runners of benchmarks share: contenders that take rounds in turn, and what ran where."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Reply = dict[str, float]


class Contender:
    """A running program that takes rounds; it lives until the `with` block ends.

    For "go N" on its standard input it takes N steps and answers one JSON line with these keys.
    """

    def __init__(self, name: str, command: list[str], threads: int, keys: set[str]) -> None:
        self.name = name
        self.keys = keys
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it may have ended already
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # a launcher ends its ranks then
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def round(self, steps: int) -> Reply:
        """Has it take the steps; returns its answer."""
        return self.ask(f"go {steps}", self.keys)

    def ask(self, request: str, keys: set[str]) -> Reply:
        """Its answer, which has these keys."""
        with contextlib.suppress(BrokenPipeError):  # the empty answer below tells
            self.process.stdin.write(f"{request}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended without an answer (its own words stand above)")
        reply = json.loads(line)
        if missing := keys - reply.keys():
            sys.exit(f"{self.name} left {', '.join(sorted(missing))} out of its answer: {line}")
        return reply


def output_of(command: list[str]) -> str:
    """What a command prints; a few words where it cannot run."""
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return ran.stdout.strip()


def cpu_name() -> str:
    """The processor's own name."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def hardware_slug() -> str:
    """The processor and its cores as a piece of a file name."""
    name = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", cpu_name().lower())
    return "-".join(re.findall(r"[a-z0-9]+", name)) + f"-{os.cpu_count()}-cores"


def facts(load: float, python: str = sys.executable) -> dict[str, str]:
    """The machine and the versions that this Python has, as far as they say so themselves."""
    ask = """import importlib.metadata, json, platform, torch
print(json.dumps({
    "python": platform.python_version(),
    "torch": torch.__version__,
    "torch's vector instructions": torch.backends.cpu.get_cpu_capability(),
    "diffusers": importlib.metadata.version("diffusers"),
}))"""
    return {
        "processor": f"{cpu_name()}, {os.cpu_count()} cores visible",
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "load average before the start": f"{load:.2f}",
        "trestle": output_of(["git", "describe", "--always", "--dirty"]),
        **json.loads(output_of([python, "-c", ask])),
    }


def facts_table(load: float, python: str = sys.executable) -> list[str]:
    """The facts as lines of Markdown."""
    rows = [f"| {name} | {value} |" for name, value in facts(load, python).items()]
    return ["| | |", "|---|---|", *rows]
