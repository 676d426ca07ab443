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

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

import replay
from sana_cases import DEFAULTS, Config, build_model, digest, draw_case, turns_taken


def mark(fine: bool) -> str:
    return "ok  " if fine else "FAIL"


def print_failing(case: replay.Case, problems: list[str]) -> None:
    """Everything needed to see and repeat a failure."""
    shapes = {name: list(tensor.shape) for name, tensor in case.inputs.items()}
    for problem in problems[:20]:
        print(f"    {problem}")
    if len(problems) > 20:
        print(f"    ... and {len(problems) - 20} more")
    print(f"    dtype {case.dtype}, inputs {shapes}")
    print("    config " + json.dumps(case.config, indent=2).replace("\n", "\n    "))


def run_cases(program: Path, seed: int, indices: list[int], folder: Path) -> int:
    """Replays the cases in one run of the program; returns the number that failed."""
    made: list[tuple[Path, replay.Case, replay.Tensors]] = []  # folder, case, the answer
    turns: Counter[str] = Counter()
    redraws = 0
    for index in indices:
        answered = draw_case(seed, index)
        redraws += answered.redraws
        turns.update(turns_taken(answered.pairs[0][0]))
        for case, results in answered.pairs:
            path = folder / f"case-{index:03}-{case.dtype}"
            replay.write_case(path, case)
            made.append((path, case, results))

    started = time.monotonic()
    ran = replay.run_program(program, [path for path, _, _ in made])
    replay_s = time.monotonic() - started
    if ran.returncode != 0:
        print(f"{program.name} exited with {ran.returncode}:\n{ran.stdout}{ran.stderr}")

    failed = 0
    compared_of: dict[str, list[replay.Comparison]] = {name: [] for name in replay.DTYPES}
    for path, case, results in made:
        compared = replay.judge(path, results, case.dtype)
        print(
            f"{mark(not compared.problems)} {path.name}  "
            f"forward {compared.forward_error:.1e}  gradient {compared.gradient_error:.1e} "
            f"({compared.worst_gradient})  {digest(case)}"
        )
        if compared.problems:
            failed += 1
            print_failing(case, compared.problems)
        compared_of[case.dtype].append(compared)

    taken = ", ".join(f"{name} {count}" for name, count in turns.items())
    print(f"{len(indices)} configurations from seed {seed} ({redraws} drawn again): {taken}")
    for name in replay.DTYPES:
        bounds = replay.BOUNDS[name]
        forward = max((c.forward_error for c in compared_of[name]), key=replay.nan_is_worst)
        gradient = max((c.gradient_error for c in compared_of[name]), key=replay.nan_is_worst)
        print(
            f"worst {name}: forward {forward:.2e} (bound {bounds.forward:g}), "
            f"gradient {gradient:.2e} (bound {bounds.gradient:g})"
        )
    print(f"{program.name} took {replay_s:.1f} s for {len(made)} folders")
    return failed + (ran.returncode != 0 and failed == 0)


# What Trestle refuses, and the field that the message must name. diffusers runs the first three
# (Trestle does not offer them) and fails on the others.
REFUSED: list[tuple[Config, str]] = [
    ({"guidance_embeds": True}, "guidance_embeds"),
    ({"qk_norm": "layer_norm_across_heads"}, "qk_norm"),
    ({"qk_norm": "l2"}, "qk_norm"),
    ({"qk_norm": "rms_norm_over_heads"}, "qk_norm"),
    ({"cross_attention_dim": 24}, "cross_attention_dim"),
    ({"cross_attention_dim": None}, "cross_attention_dim"),
    ({"num_cross_attention_heads": None}, "num_cross_attention_heads"),
]


def run_refusals(program: Path, folder: Path) -> int:
    """Each refused configuration, in a case that is otherwise sound; returns the failures."""
    config = {
        **DEFAULTS,
        **{"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8},
        **{"num_layers": 1, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8},
        **{"cross_attention_dim": 16, "caption_channels": 6},
    }
    sound = replay.Case(
        family="sana",
        config=config,
        dtype="float32",
        weights=build_model(config, torch.float32).state_dict(),
        inputs={
            "hidden_states": torch.randn(1, 4, 3, 3),
            "encoder_hidden_states": torch.randn(1, 2, 6),
            "timestep": torch.tensor([500.0]),
        },
        cotangent=torch.ones(1, 4, 3, 3),
        grad_inputs=("hidden_states", "encoder_hidden_states"),
    )

    def run(changed: Config, name: str) -> tuple[int, str, bool]:
        path = folder / name
        replay.write_case(path, replace(sound, config={**config, **changed}))
        ran = replay.run_program(program, [path])
        return ran.returncode, ran.stderr.strip(), (path / "replayed.safetensors").exists()

    # Without this a program that refuses everything would pass.
    code, said, wrote = run({}, "accepted")
    failed = int(code != 0 or not wrote)
    if failed:
        print(f"FAIL the unchanged configuration: exit code {code}\n    {said}")
    for number, (changed, field) in enumerate(REFUSED):
        code, said, wrote = run(changed, f"refused-{number}")
        fine = code == 2 and field in said and not wrote
        failed += not fine
        print(f"{mark(fine)} refused {json.dumps(changed)}: exit code {code}, says: {said}")
        if not fine:
            print(f"    expected exit code 2, a message with {field!r} and no replayed.safetensors")
    return failed


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
    for case, results in draw_case(seed, 0).pairs:
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--replay", type=Path, metavar="PROGRAM", help="the built oracle_replay")
    add("--cases", type=int, default=24, help="configurations to draw (default 24)")
    add("--seed", type=int, default=3, help="what to draw them from (default 3)")
    add("--case", type=int, metavar="INDEX", help="only this one of the seed's cases")
    add("--keep", type=Path, metavar="DIR", help="write the case folders here and keep them")
    add("--self-check", action="store_true", help="spoil replays and expect to notice")
    arguments = parser.parse_args()
    if not arguments.self_check and arguments.replay is None:
        parser.error("--replay PROGRAM is needed (the oracle judges a program), or --self-check")
    if arguments.cases < 1:
        parser.error("--cases must be 1 or more (no case proves nothing)")
    if arguments.replay is not None and not arguments.replay.is_file():
        parser.error(f"there is no program {arguments.replay} (the tests' build makes it)")

    torch.set_num_threads(1)
    started = time.monotonic()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="sana_oracle_"))
    try:
        if arguments.self_check:
            failed = self_check(arguments.seed, folder)
        else:
            program = arguments.replay.resolve()
            indices = list(range(arguments.cases)) if arguments.case is None else [arguments.case]
            failed = run_cases(program, arguments.seed, indices, folder)
            if arguments.case is None:
                failed += run_refusals(program, folder)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    verdict = f"FAILED: {failed}" if failed else "all passed"
    print(f"{verdict} in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
