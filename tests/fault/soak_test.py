#!/usr/bin/env python3
"""A tenth of the soak (tools/soak): kills at random instants and at named steps of a save, signals
at four moments, and a resize. Every promise holds, and everything that was asked for came off.

    python tests/fault/soak_test.py --trestle build/release/tests/trestle_small
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ASKED = {"kills": 20, "preempt": 4, "resize": 1}
MOMENTS = {"training", "data", "pictures", "job"}
SEED = "6"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True,
                        help="the program built with the tasks of tests/tasks/")
    program = parser.parse_args().trestle.resolve()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "soak.json"
        asked = [word for kind, count in ASKED.items() for word in (kind, str(count))]
        command = [sys.executable, ROOT / "tools" / "soak", *asked, "--seed", SEED, "--json", file,
                   "--trestle", program]
        if subprocess.run(command, check=False).returncode != 0:
            return 1
        seen = json.loads(file.read_text())
    counts = Counter(event["kind"] for event in seen["events"])
    moments = {event["moment"] for event in seen["events"] if event["kind"] == "preempt"}
    named = [e for e in seen["events"] if e["kind"] == "kills" and e["moment"].startswith("save-")]
    problems = []
    if counts != ASKED:
        problems.append(f"asked for {ASKED}, and {dict(counts)} came off")
    if moments != MOMENTS:
        problems.append(f"signals met {moments}")
    if len(named) != min(len(seen["named_steps"]), ASKED["kills"] // 2):
        problems.append(f"{len(named)} kills at named steps, of {seen['named_steps']}")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
