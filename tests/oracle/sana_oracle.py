#!/usr/bin/env python3
"""Judges Trestle's Sana transformer by diffusers': the same weights, inputs and gradients.

Draws small random configurations and shapes from a seed, runs each in diffusers in fp32 and in
fp64 (sana_cases.py), lets the replay program compute the same, and compares outputs and every
gradient (bounds and folder layout: replay.py). Then checks that configurations which Trestle does
not support are refused by the name of the field.

    python tests/oracle/sana_oracle.py --replay build/release/tests/oracle_replay
    python tests/oracle/sana_oracle.py --replay ... --seed 7 --case 3 --keep /tmp/case
    python tests/oracle/sana_oracle.py --self-check     proves that the comparison can fail
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import replay
from family_oracle import Config, Oracle, main, mark
from sana_cases import digest, draw_case, turns_taken

USAGE = 2

# What Trestle refuses, and the field that the message must name. diffusers runs the first (it is
# Sana-Sprint's) and fails on the others.
REFUSED: list[tuple[Config, str, int]] = [
    ({"guidance_embeds": True}, "guidance_embeds", USAGE),
    ({"qk_norm": "layer_norm"}, "qk_norm", USAGE),
    ({"qk_norm": "rms_norm"}, "qk_norm", USAGE),
    ({"qk_norm": "rms_norm_over_heads"}, "qk_norm", USAGE),
    ({"cross_attention_dim": 1000}, "cross_attention_dim", USAGE),  # wider than any that is drawn
    ({"cross_attention_dim": None}, "cross_attention_dim", USAGE),
    ({"num_cross_attention_heads": None}, "num_cross_attention_heads", USAGE),
]

ORACLE = Oracle(
    family="sana",
    draw=draw_case,
    digest=digest,
    turns=turns_taken,
    has_fused_path=True,
    refused=REFUSED,
    accepted=[({"from_a_later_release": 3}, "from_a_later_release has no effect")],
)

Spoil = Callable[[replay.Tensors, dict[str, str]], object]


def move(name: str, by: float) -> Spoil:
    """Moves one element of a tensor."""

    def spoil(tensors: replay.Tensors, _metadata: dict[str, str]) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] += by

    return spoil


def self_check(seed: int, folder: Path) -> int:
    """Spoils a perfect replay in every way that must be noticed; returns how many were not."""
    failed = 0
    for case, results in draw_case(seed, 0).answers:
        replay.write_case(folder, case)
        bounds = replay.BOUNDS[case.dtype]
        largest = results["output"].abs().max().item()
        norms = {name: tensor.norm().item() for name, tensor in results.items()}
        del norms["output"]
        one = "grad.proj_out.weight"
        scale = max(norms[one], 0.1 * math.hypot(*norms.values()))
        right_count, wrong_count = ("1", "0") if case.dtype == "float32" else ("0", "3")

        accepted: dict[str, Spoil] = {
            "nothing": lambda t, m: None,
            "output by a third of the bound": move("output", bounds.forward * largest / 3),
            "gradient by a third of the bound": move(one, bounds.gradient * scale / 3),
        }
        noticed: dict[str, Spoil] = {
            "output by three bounds": move("output", bounds.forward * largest * 3),
            "gradient by three bounds": move(one, bounds.gradient * scale * 3),
            "output with a NaN": move("output", math.nan),
            "gradient with a NaN": move(one, math.nan),
            "output missing": lambda t, m: t.pop("output"),
            "gradient missing": lambda t, m: t.pop(one),
            "a tensor too many": lambda t, m: t.update(extra=torch.zeros(1)),
            "wrong shape": lambda t, m: t.update({one: t[one].unsqueeze(0)}),
            "wrong dtype": lambda t, m: t.update({one: t[one].bfloat16()}),
            "no count of fused kernels": lambda t, m: m.clear(),
            "wrong path": lambda t, m: m.update(fused_calls=wrong_count),
        }
        for name, spoil in {**accepted, **noticed}.items():
            tensors, metadata = dict(results), {"fused_calls": right_count}
            spoil(tensors, metadata)
            save_file(
                {key: tensor.clone() for key, tensor in tensors.items()},
                folder / "replayed.safetensors",
                metadata,
            )
            problems = replay.judge(folder, results, case.dtype).problems
            fine = bool(problems) == (name in noticed)
            failed += not fine
            print(f"{mark(fine)} {case.dtype} {name}: {'; '.join(problems) or 'passes'}")
    return failed


if __name__ == "__main__":
    sys.exit(main(ORACLE, __doc__, cases=36, self_check=self_check))
