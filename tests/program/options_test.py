#!/usr/bin/env python3
"""No option is decoration: every described option, Sana's configuration fields included, is
changed, and either a result or an error must change.

A result is what a run leaves: the weights and averages of its checkpoints, its metrics (times left
out), its pictures, its summary, its files, and what it printed. A field whose change is refused
must be named in the error, with exit code 2 or 3.

    python tests/program/options_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import trestle

# Base settings under which every option can matter; short, because about sixty runs follow.
BASE = ["train.steps=3", "train.global_batch=4", "train.micro_batch=2", "checkpoint.every=2",
        "log.every=1", "log.level=debug", "sample.pictures=2", "train.max_grad_norm=0.001"]

# Where the automatic change would not do: the value to change to, and settings it needs beside it.
SPECIAL: dict[str, tuple[object, list[str]]] = {
    "run.task": ("line_fitt", []),
    "run.name": ("another", []),
    "data.path": ("nowhere", []),
    "model.interpolation_scale": (1.0, []),
    "model.qk_norm": ("none", []),
    "optim.lr_scheduler": ("cosine", ["optim.lr_warmup_steps=0"]),
    "log.every": (3, []),
    "optim.lr_warmup_steps": (1, []),
    "log.level": ("error", []),
    "dist.bucket_bytes": (1000, []),
    "dist.threads": (2, []),
    "ema.decay": (0.1, []),
    "ema.more": ('["fast"]', []),
    "sample.weights": ("model", []),
    "task.codec": ("dc_ae", []),
    "data.max_bad": (0, []),
    "train.on_nonfinite": ("stop", ["optim.learning_rate=1e30"]),
    "train.max_skips": (0, ["optim.learning_rate=1e30"]),
    "run.lease_timeout_s": (2, ["run.lease_timeout_s=1"]),
    "train.stop_signals": ('["USR1"]', []),
    "train.stop_before_end_s": (7200, ["train.steps=2000"]),
    "dist.wire_dtype": ("bf16", []),
    "dist.verify_every": (1, []),
    "dist.checkpoint_timeout_s": (3600, []),
    "checkpoint.timeout_s": (1e-6, []),
    "checkpoint.keep_last": (1, []),
    "checkpoint.keep_every": (2, ["checkpoint.keep_last=1"]),
    "lora.rank": (2, ["lora.enabled=true"]),
    "lora.alpha": (1.5, ["lora.enabled=true"]),
    "lora.use_rslora": ("true", ["lora.enabled=true"]),
    "lora.dropout": (0.2, ["lora.enabled=true"]),
    "lora.init": ("kaiming", ["lora.enabled=true"]),
    "lora.use_dora": ("true", ["lora.enabled=true"]),
    "lora.targets": ('["to_out.0"]', ["lora.enabled=true"]),
    "lora.dtype": ("base", ["lora.enabled=true", "model.dtype=bfloat16"]),
}

# What these refuse is found by training.
ENDS_RUN = {"train.on_nonfinite": 6, "train.max_skips": 6, "train.stop_before_end_s": 75,
            "checkpoint.timeout_s": 5}

# What counts in a Slurm job only: the run and the one that it is compared with are in one.
IN_SLURM = ("train.stop_before_end_s",)
# What counts where the run directory may be another's: its lease cannot be read.
WITH_UNREADABLE_LEASE = ("run.lease_timeout_s",)

# Lines and fields that hold times or places, which differ between equal runs.
VOLATILE_METRICS = ("samples_per_s", "step_ms", "data_wait_ms", "checkpoint_wait_ms", "rss_bytes",
                    "wall_s")


def changed_value(option: dict) -> str:
    """Another valid value, found from the option's type."""
    value, kind = option["value"], option["type"]
    if kind.startswith("boolean"):
        return "false" if value == "true" else "true"
    if kind.startswith("integer"):
        return str(3 if value == "none" else int(value) * 2 if int(value) > 0 else 1)
    if kind.startswith("number"):
        number = 0.1 if value == "none" else float(value)
        return repr(number * 0.5 if number > 0 else 0.25)
    choices = [c.strip().strip('"') for c in re.split(r",| or ", option["range"]) if c.strip()]
    others = [c for c in choices if c != value.strip('"')]
    return others[0] if others else value.strip('"') + "_changed"


def slurm_job(folder: Path) -> dict[str, str]:
    """The environment of a job that ends in an hour, as far as a run looks at it."""
    folder.mkdir()
    squeue = folder / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {int(time.time()) + 3600}\n")
    squeue.chmod(0o755)
    return {"SLURM_JOB_ID": "1", "PATH": f"{folder}:{os.environ['PATH']}"}


class Runner:
    """Runs the tiny recipe with settings and takes the fingerprint of what came out."""

    def __init__(self, program: Path, scratch: Path):
        self.program, self.scratch = program, scratch
        self.data = trestle.make_data(scratch / "data")
        # Some pictures are cut, so that what a run makes of bad samples matters.
        for picture in sorted((self.data / "train").glob("*_source.png"))[:4]:
            picture.write_bytes(picture.read_bytes()[:100])

    def __call__(self, label: str, sets: list[str], environment: dict[str, str] | None = None,
                 lease: str = "") -> tuple[int, str, str]:
        """Exit code, fingerprint, and what was printed."""
        folder = self.scratch / label
        folder.mkdir()
        if lease:
            (folder / "runs" / "tiny").mkdir(parents=True)
            (folder / "runs" / "tiny" / "lease.json").write_text(lease)
        arguments = trestle.settings(f"data.path={self.data}", *BASE, *sets)
        result = trestle.run(self.program, "train", trestle.TINY, *arguments, cwd=folder,
                             environment=environment)
        digest = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            # TensorBoard's files carry a time in their names, and times inside.
            name = re.sub(r"(tfevents).*", r"\1", str(path.relative_to(folder)))
            digest.update(name.encode())
            digest.update(self.contents(path))
        printed = result.stdout + result.stderr
        digest.update(self.stable_lines(printed).encode())
        return result.returncode, digest.hexdigest(), printed

    def contents(self, path: Path) -> bytes:
        """What a file says that depends neither on the time nor on the recipe's text."""
        if path.name in ("recipe.resolved.toml", "manifest.json", "latest", "epochs.json") or \
                "tfevents" in path.name or "lease" in path.name or path.name == "restarts.jsonl":
            return b""
        if path.suffix == ".h5":
            folder = trestle.Checkpoint(path.parent)
            tensors = folder.tensors("")
            return b"".join(n.encode() + tensors[n].tobytes() for n in sorted(tensors))
        if path.suffix == ".log":
            return b""
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            return json.dumps([{k: v for k, v in line.items() if k not in VOLATILE_METRICS}
                               for line in lines]).encode()
        if path.name == "summary.json":
            summary = json.loads(path.read_text())
            return json.dumps({k: v for k, v in summary.items()
                               if k not in VOLATILE_METRICS}).encode()
        return path.read_bytes()

    def differences(self, a: str, printed_a: str, b: str, printed_b: str) -> str:
        """What two runs said and left that is not the same."""
        lines = list(difflib.unified_diff(self.stable_lines(printed_a).splitlines(),
                                          self.stable_lines(printed_b).splitlines(), a, b,
                                          lineterm="", n=0))
        left = [{str(p.relative_to(self.scratch / run)): self.contents(p)
                 for p in (self.scratch / run).rglob("*") if p.is_file()} for run in (a, b)]
        lines += [f"{name} differs" for name in sorted(left[0].keys() | left[1].keys())
                  if left[0].get(name) != left[1].get(name)]
        return "\n".join(lines)

    @staticmethod
    def stable_lines(text: str) -> str:
        text = re.sub(r"\d+(\.\d+)? samples/s|\d+:\d\d left|\? left", "", text)
        text = re.sub(r"(saved step \d+:|still was:) .*", r"\1", text)
        return "\n".join(line for line in text.splitlines()
                         if not re.search(r"wall_s|samples_per_s|checkpoint_wait|recipe differs",
                                          line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    program = parser.parse_args().trestle.resolve()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        runner = Runner(program, Path(name))
        explained = trestle.checked(trestle.run(
            program, "explain", trestle.TINY, "--json", "--set", f"data.path={runner.data}",
            *trestle.settings(*BASE)))
        options = {o["key"]: o for o in json.loads(explained.stdout)}

        unknown = SPECIAL.keys() - options.keys()
        if unknown:
            failures.append(f"SPECIAL names options that do not exist: {sorted(unknown)}")
        first, again = runner("base", []), runner("base-again", [])
        if first[0] != 0:
            print(first[2])
            return 1
        if first[1] != again[1]:
            failures.append("two equal runs differ: no comparison can be trusted\n" +
                            runner.differences("base", first[2], "base-again", again[2]))

        def judge(key: str) -> str | None:
            value, beside = SPECIAL.get(key, (None, []))
            value = changed_value(options[key]) if value is None else value
            around = slurm_job(runner.scratch / "slurm") if key in IN_SLURM else None
            before = first[1]
            lease = "?" if key in WITH_UNREADABLE_LEASE else ""
            if beside or around:
                before = runner(f"{key}-beside", beside, around, lease)[1]
            code, fingerprint, printed = runner(key, [*beside, f"{key}={value}"], around, lease)
            what = f"{key}: {options[key]['value']} -> {value}"
            if code == 0:
                print(f"{what}: {'another result' if fingerprint != before else 'THE SAME RESULT'}")
                return None if fingerprint != before else f"{what} changed neither result nor error"
            named = key in printed or key.split(".", 1)[1] in printed
            print(f"{what}: refused with code {code}")
            if code == ENDS_RUN.get(key):
                return None
            return None if code in (2, 3) and named else f"{what}: code {code}, said:\n{printed}"

        with ThreadPoolExecutor(2) as pool:
            failures += [f for f in pool.map(judge, options) if f]
        print(f"{len(options)} options changed")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
