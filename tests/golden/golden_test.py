#!/usr/bin/env python3
"""The losses of the tiny recipe stay what they are, on every machine, to 1e-5.

tests/golden/tiny.json holds 20 losses in float32 and in float64. Kernels differ between CPUs, so
the bound is not zero; tools/same_loss demands equality of two commits on one machine. A change that
is meant to change numbers says so in its commit and renews the file:

    .venv/bin/python3 tests/golden/golden_test.py --trestle build/release/launch/trestle --renew
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "program"))
import trestle  # noqa: E402

GOLDEN = Path(__file__).resolve().with_name("tiny.json")
BOUND = 1e-5
DTYPES = ("float32", "float64")


def measure(program: Path) -> dict:
    """What the file holds, from this program on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        data = trestle.make_data(Path(scratch) / "data")
        about = json.loads((data / "about.json").read_text())
        losses = {}
        for dtype in DTYPES:
            run_dir = Path(scratch) / dtype
            trestle.checked(trestle.run(program, "train", trestle.TINY, "--run-dir", run_dir,
                                        "--set", f"data.path={data}",
                                        "--set", f"model.dtype={dtype}"))
            losses[dtype] = trestle.losses(run_dir).tolist()
        return {"data_sha256": about["contents_sha256"], "losses": losses}


def origin() -> dict:
    """Where renewed losses come from, for who wonders later."""
    import torch
    commit = subprocess.run(["git", "-C", trestle.ROOT, "describe", "--always", "--dirty"],
                            text=True, capture_output=True, check=False).stdout.strip()
    cpu = next(line.split(":", 1)[1].strip()
               for line in Path("/proc/cpuinfo").read_text().splitlines()
               if line.startswith("model name"))
    return {"commit": commit, "machine": cpu, "torch": torch.__version__}


def differences(golden: dict, found: dict) -> list[str]:
    if found["data_sha256"] != golden["data_sha256"]:
        return ["the pictures are not those that the losses belong to (tools/make_quickstart_data "
                "or a package that it uses has changed)"]
    problems = []
    for dtype in DTYPES:
        then, now = golden["losses"][dtype], found["losses"][dtype]
        if len(then) != len(now):
            problems.append(f"{dtype}: {len(now)} losses, and there were {len(then)}")
            continue
        relative = [abs(a - b) / abs(a) for a, b in zip(then, now)]
        print(f"{dtype}: {len(now)} losses, relative difference at most {max(relative):.1e}")
        step = next((i for i, r in enumerate(relative) if not r <= BOUND), None)
        if step is not None:
            problems.append(f"{dtype}: the loss of step {step} is {now[step]!r}, and it was "
                            f"{then[step]!r} (relative difference {relative[step]:.1e}, at most "
                            f"{BOUND:.0e})")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    parser.add_argument("--renew", action="store_true", help="write the file anew")
    options = parser.parse_args()
    found = measure(options.trestle.resolve())
    if options.renew:
        GOLDEN.write_text(json.dumps({**origin(), **found}, indent=1) + "\n")
        print(f"wrote {GOLDEN.relative_to(trestle.ROOT)}")
        return 0
    golden = json.loads(GOLDEN.read_text())
    problems = differences(golden, found)
    for problem in problems:
        print(f"FAILED: {problem}")
    if problems:
        program = options.trestle
        print(f"(tests/golden/tiny.json comes from {golden['commit']} on {golden['machine']}, torch"
              f" {golden['torch']}.) Where numbers should not have changed, tools/same_loss "
              f"COMMIT finds the commit. Where they should, say so in the commit and renew them:\n"
              f"  {sys.executable} tests/golden/golden_test.py --trestle {program} --renew")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
