#!/usr/bin/env python3
"""Compares the names, shapes and order of Trestle's parameters with the reference's state_dict().

`PROGRAM --keys FAMILY CONFIG.json` builds the model without memory for its weights and prints one
`name<TAB>AxBxC` line per tensor. It must agree with the committed table of a released model, and
with the reference itself (on the meta device) for that and for other configurations.

    python tests/oracle/keys_test.py --family sana --trestle-keys build/release/tests/oracle_replay
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import replay

Config = dict[str, Any]

DATA = Path(__file__).resolve().parent.parent / "models"
RANDOM_CONFIGS = 5


@dataclass(frozen=True)
class Family:
    """A released model with its table, and what the reference makes of a configuration."""

    released: str
    config: str  # in tests/models/<family>/
    table: str
    make: Callable[[Config], torch.nn.Module]
    draw_config: Callable[[random.Random], Config]
    others: Callable[[Config], dict[str, Config]]  # the family's other shapes


def sana() -> Family:
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

    from sana_cases import draw_config

    def others(big: Config) -> dict[str, Config]:
        return {
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

    return Family(
        "Sana 1.5 4.8B",
        "sana15_4_8b_config.json",
        "keys_sana15_4_8b.tsv",
        SanaTransformer2DModel.from_config,
        draw_config,
        others,
    )


def dc_ae() -> Family:
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    from dc_ae_cases import draw_config

    def others(big: Config) -> dict[str, Config]:
        return {
            "diffusers' defaults": {},
            "pixels moved into channels and back": {
                **big,
                **{"downsample_block_type": "pixel_unshuffle"},
                **{"upsample_block_type": "pixel_shuffle"},
            },
            "a decoder like DC-AE-Lite's": {
                **{**big, "decoder_layers_per_block": [0, 3, 5, 4, 4, 4]},
                **{"decoder_block_types": "ResBlock"},
            },
            "no blocks at the finest resolution": {
                **{**big, "encoder_layers_per_block": [0, 2, 2, 2, 2, 2]},
                **{"decoder_layers_per_block": [0, 2, 2, 2, 2, 2]},
            },
        }

    return Family(
        "DC-AE f32c32 of SANA",
        "dc_ae_f32c32_sana_config.json",
        "keys_dcae_f32c32_sana.tsv",
        AutoencoderDC.from_config,
        draw_config,
        others,
    )


def gemma2() -> Family:
    from transformers import Gemma2Config, Gemma2Model

    from gemma2_cases import draw_config

    def others(big: Config) -> dict[str, Config]:
        nine = {"hidden_size": 3584, "num_hidden_layers": 42, "intermediate_size": 14336}
        return {
            "transformers' defaults": {},
            "Gemma 2 9B": {**big, **nine, "num_attention_heads": 16, "num_key_value_heads": 8},
            "biases": {**big, "num_hidden_layers": 2, "attention_bias": True},
        }

    return Family(
        "Gemma 2 2B",
        "gemma2_2b_config.json",
        "keys_gemma2_2b.tsv",
        # The library writes into what it is given.
        lambda config: Gemma2Model(Gemma2Config(**copy.deepcopy(config))),
        draw_config,
        others,
    )


FAMILIES = {"sana": sana, "dc_ae": dc_ae, "gemma2": gemma2}


def reference_keys(family: Family, config: Config) -> list[str]:
    """The lines that the reference's own model asks for."""
    with torch.device("meta"):
        model = family.make(config)
    return [f"{name}\t{'x'.join(map(str, t.shape))}" for name, t in model.state_dict().items()]


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
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument(
        "--trestle-keys",
        type=Path,
        required=True,
        metavar="PROGRAM",
        help="the built oracle_replay",
    )
    arguments = parser.parse_args()
    program = arguments.trestle_keys
    if not program.is_file():
        parser.error(f"there is no program {program} (the tests' build makes it)")

    def trestle_keys(config_json: Path) -> list[str]:
        command = ["--keys", arguments.family, config_json]
        ran = replay.run_program(program.resolve(), command)
        if ran.returncode != 0:
            return [f"(exit code {ran.returncode}) {ran.stderr.strip()}"]
        return ran.stdout.splitlines()

    family = FAMILIES[arguments.family]()
    released_json = DATA / arguments.family / family.config
    released = json.loads(released_json.read_text())
    table = (DATA / arguments.family / family.table).read_text().splitlines()

    own = reference_keys(family, released)
    agreed = report(f"the table of {family.released} is the reference's own", own, table)
    agreed &= report(family.released, table, trestle_keys(released_json))
    configs = family.others(released)
    for number in range(RANDOM_CONFIGS):
        configs[f"random {number}"] = family.draw_config(random.Random(f"keys/{number}"))
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs.items():
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(config))
            agreed &= report(name, reference_keys(family, config), trestle_keys(path))
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
