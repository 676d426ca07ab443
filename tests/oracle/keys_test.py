#!/usr/bin/env python3
"""Compares the names, shapes and order of Trestle's Sana parameters with diffusers' state_dict().

`PROGRAM --keys CONFIG.json` builds the model without memory for its weights and prints one
`name<TAB>AxBxC` line per tensor. It must agree with the committed table of the 4.8B model, and
with diffusers itself (on the meta device) for that and for other configurations.

    python tests/oracle/keys_test.py --trestle-keys build/release/tests/oracle_replay
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import sys
import tempfile
from pathlib import Path

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

import replay
from sana_cases import Config, draw_config

DATA = Path(__file__).resolve().parent.parent / "models" / "sana"
RANDOM_CONFIGS = 5


def diffusers_keys(config: Config) -> list[str]:
    """The lines that diffusers' own model asks for."""
    with torch.device("meta"):
        model = SanaTransformer2DModel.from_config(config)
    return [f"{name}\t{'x'.join(map(str, t.shape))}" for name, t in model.state_dict().items()]


def other_configs(big: Config) -> dict[str, Config]:
    """The family's other shapes, then random small ones."""
    configs = {
        "Sana 1.6B (no qk_norm)": {**big, "num_layers": 20, "qk_norm": None},
        "Sana 0.6B": {
            **{**big, "num_layers": 28, "num_attention_heads": 36, "qk_norm": None},
            **{"num_cross_attention_heads": 16, "cross_attention_head_dim": 72},
            **{"cross_attention_dim": 1152},
        },
        "Sana 4K (positions)": {
            **{**big, "num_layers": 20, "sample_size": 128, "interpolation_scale": 2.0},
        },
        "every optional tensor": {
            **{**big, "num_layers": 2, "attention_bias": True},
            **{"norm_elementwise_affine": True, "patch_size": 2, "out_channels": 64},
        },
    }
    for number in range(RANDOM_CONFIGS):
        configs[f"random {number}"] = draw_config(random.Random(f"keys/{number}"))
    return configs


def report(name: str, want: list[str], got: list[str]) -> bool:
    """Prints one line, and where they differ a diff; returns whether they agree."""
    if want == got:
        print(f"ok   {name}: {len(want)} tensors")
        return True
    diff = list(difflib.unified_diff(want, got, "expected", "found", lineterm="", n=1))
    print(f"FAIL {name}:", *diff[:40], sep="\n    ")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trestle-keys",
        type=Path,
        required=True,
        metavar="PROGRAM",
        help="the built oracle_replay",
    )
    program = parser.parse_args().trestle_keys
    if not program.is_file():
        parser.error(f"there is no program {program} (the tests' build makes it)")

    def trestle_keys(config_json: Path) -> list[str]:
        ran = replay.run_program(program.resolve(), ["--keys", config_json])
        if ran.returncode != 0:
            return [f"(exit code {ran.returncode}) {ran.stderr.strip()}"]
        return ran.stdout.splitlines()

    big_json = DATA / "sana15_4_8b_config.json"
    big = json.loads(big_json.read_text())
    table = (DATA / "keys_sana15_4_8b.tsv").read_text().splitlines()

    agreed = report("the table of the 4.8B model is diffusers' own", diffusers_keys(big), table)
    agreed &= report("Sana 1.5 4.8B", table, trestle_keys(big_json))
    with tempfile.TemporaryDirectory() as folder:
        for name, config in other_configs(big).items():
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(config))
            agreed &= report(name, diffusers_keys(config), trestle_keys(path))
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
