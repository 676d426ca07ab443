#!/usr/bin/env python3
"""`cmake --install` puts a program, recipes and job scripts in place, and the program runs there.

    python tests/program/install_test.py --cmake .venv/bin/cmake --build build/release
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import trestle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmake", required=True, help="the cmake that configured the build")
    parser.add_argument("--build", type=Path, required=True, help="the build folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prefix = Path(name) / "trestle"
        subprocess.run([arguments.cmake, "--install", arguments.build, "--prefix", prefix],
                       check=True, stdout=subprocess.DEVNULL)
        program = prefix / "bin" / "trestle"
        recipe = prefix / "share" / "trestle" / "recipes" / "quickstart.toml"
        assert recipe.exists(), f"{recipe} was not installed"
        scripts = prefix / "share" / "trestle" / "slurm"
        assert (scripts / "train.sbatch").exists()
        assert os.access(scripts / "requeue.sh", os.X_OK), "requeue.sh cannot be run"
        print(trestle.checked(trestle.run(program, "--version", cwd=prefix)).stdout, end="")
        data = trestle.make_data(Path(name) / "data", size=64, crops=4, heldout=2)
        trestle.checked(trestle.run(
            program, "train", recipe, "--run-dir", Path(name) / "run", "--set", f"data.path={data}",
            "--set", "train.steps=1", "--set", "sample.steps=1", ranks=2, cwd=prefix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
