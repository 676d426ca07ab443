#!/usr/bin/env python3
"""Judges Trestle's LoRA adapters by peft's, and its files by diffusers'.

For each kind of use (lora_cases.py) random models with random adapters are computed by peft and by
the replay program, in fp32, in fp64, and with fp32 adapters over a bf16 base: outputs, gradients of
the adapters and of the inputs; also merged, with two adapters, with dropout on the same masks. The
program reads the files that diffusers wrote and writes each again; diffusers loads that as a
pipeline would, and must then hold the same tensors and give the same bits.

    python tests/oracle/lora_oracle.py --replay build/release/tests/lora_replay
    python tests/oracle/lora_oracle.py --replay ... --kind dora --seed 7 --keep /tmp/case
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch
from diffusers import SanaPipeline
from safetensors import safe_open
from safetensors.torch import load_file

import lora_cases
import replay
import sana_cases
from family_oracle import floats_as, judged
from lora_cases import KINDS, LoraCase

CASES_OF_KIND = 2
DROPOUT_CASES = 4  # some of which rounding may decide: their masks are known too late
BFLOAT16_GRADIENT = 2e-2  # or twice peft's own error, where that is more
LEAST_CHANGE = 1e-2  # of the output by the adapters


def change_by_adapters(case: LoraCase, with_adapters: torch.Tensor) -> float:
    """What a program that forgot the adapters would be off by."""
    bare = LoraCase(**{**vars(case), "adapters": []})
    model = sana_cases.build_model(bare.config, torch.float64)
    model.load_state_dict(bare.weights)
    with torch.no_grad():
        plain = model(**bare.inputs, return_dict=False)[0]
    return ((with_adapters - plain).abs().max() / with_adapters.abs().max()).item()


def bfloat16_problems(
    case: LoraCase, expected: replay.Tensors, found: replay.Tensors
) -> list[str]:
    """Whether the gradients over a bf16 base are about as near to exact ones as peft's are."""
    rounded = {
        name: {n: t.bfloat16().double() if t.is_floating_point() else t for n, t in tensors.items()}
        for name, tensors in (("weights", case.weights), ("inputs", case.inputs))
    }
    exact, _ = lora_cases.results(LoraCase(**{**vars(case), **rounded}), "float64")
    exact = {name: tensor.to(expected[name].dtype) for name, tensor in exact.items()}
    theirs, ours = (
        replay.compare(exact, results, {}, "bfloat16") for results in (expected, found)
    )
    bound = max(BFLOAT16_GRADIENT, 2 * theirs.gradient_error)
    if ours.gradient_error <= bound:
        return []
    return [f"{ours.worst_gradient} is {ours.gradient_error:.3g} away from the exact gradient, "
            f"peft's worst {theirs.gradient_error:.3g}"]


def judge_numbers(
    folder: Path, case: LoraCase, dtype: str
) -> tuple[replay.Comparison, bool]:
    """The comparison, and whether it says anything (rounding may decide a case with dropout)."""
    path = folder / "replayed.safetensors"
    if not path.exists():
        return replay.Comparison(problems=["replayed.safetensors was not written"]), True
    with safe_open(path, framework="pt") as opened:
        found = {name: opened.get_tensor(name) for name in opened.keys()}
        metadata = opened.metadata()
    masks = {name: found.pop(name) for name in list(found) if name.startswith("mask.")}
    expected, posed = lora_cases.results(case, dtype, masks or None, KINDS[case.kind].merge)
    if case.dropout:
        other = "float64" if dtype == "float32" else "float32"
        answers = {dtype: expected, other: lora_cases.results(case, other, masks)[0]}
        posed &= sana_cases.agree_in_fp32(answers["float32"], answers["float64"])
    compared = replay.compare(expected, found, metadata, dtype)
    if dtype == "bfloat16":
        posed = True  # its bounds are far above what a ReLU's edge moves in the output
        if not KINDS[case.kind].merge:
            compared.problems += bfloat16_problems(case, expected, found)
    if dtype == "float64" and posed and case.dropout is None:
        change = change_by_adapters(case, expected["output"])
        if not change > LEAST_CHANGE:
            compared.problems.append(f"the adapters change the output by {change:.1e} only")
    if case.dropout:
        compared.problems += mask_problems(case, masks)
    return compared, posed


def mask_problems(case: LoraCase, masks: replay.Tensors) -> list[str]:
    """Whether as many elements stay as the probability says, to five deviations."""
    problems = []
    for adapter in case.adapters:
        drop = adapter.settings["lora_dropout"]
        own = torch.cat([mask.flatten().double() for name, mask in masks.items()
                         if name.startswith(f"mask.{adapter.name}.")])
        away = abs(own.mean().item() - (1 - drop)) / (drop * (1 - drop) / own.numel()) ** 0.5
        if not away < 5:
            problems.append(f"{adapter.name}: {own.mean():.3f} of them stay, not {1 - drop}")
    return problems


def judge_files(folder: Path, case: LoraCase) -> list[str]:
    """What diffusers makes of the files that the program wrote."""
    reference = lora_cases.build(case, torch.float32)
    loaded = sana_cases.build_model(case.config, torch.float32)
    loaded.load_state_dict(floats_as(case.weights, torch.float32))
    problems = []
    for adapter in case.adapters:
        name = f"{adapter.name}.rewritten.safetensors"
        state, metadata = SanaPipeline.lora_state_dict(
            folder, weight_name=name, return_lora_metadata=True
        )
        SanaPipeline.load_lora_into_transformer(
            state, transformer=loaded, adapter_name=adapter.name, metadata=metadata
        )
        with safe_open(folder / name, framework="pt") as opened:
            text = opened.metadata()["lora_adapter_metadata"]
            if opened.metadata()["format"] != "pt":
                problems.append(f"{name}: the format is not pt")
        if json.dumps(json.loads(text), indent=2, sort_keys=True) != text:
            problems.append(f"{name}: the header is not laid out as diffusers does")
        kept = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
        problems += [f"{name}: {key}" for key in load_file(folder / name)
                     if not key.startswith("transformer.") or not key.endswith(kept)]
    lora_cases.activate(case, loaded.eval())
    ours, theirs = lora_cases.adapted_layers(loaded), lora_cases.adapted_layers(reference)
    if ours.keys() != theirs.keys():
        return [*problems, f"other layers: {sorted(ours.keys() ^ theirs.keys())}"]
    for layer, module in theirs.items():
        if ours[layer].scaling != module.scaling:
            problems.append(f"{layer}: scale {ours[layer].scaling}, not {module.scaling}")
    expected = dict(reference.named_parameters())
    for name, parameter in loaded.named_parameters():
        if not torch.equal(parameter, expected[name]):
            problems.append(f"{name} is another after diffusers has loaded it")
    inputs = floats_as(case.inputs, torch.float32)
    with torch.no_grad():
        if not torch.equal(loaded(**inputs).sample, reference(**inputs).sample):
            problems.append("the loaded adapters give another output")
    return problems


def run(program: Path, kinds: list[str], seed: int, folder: Path) -> int:
    made: list[tuple[Path, LoraCase, str]] = []
    for kind in kinds:
        dtypes = ["float32", "float64"] + (["bfloat16"] if KINDS[kind].bfloat16 else [])
        for index in range(DROPOUT_CASES if KINDS[kind].dropout else CASES_OF_KIND):
            case = lora_cases.draw_case(kind, seed, index)
            for dtype in dtypes:
                path = folder / f"{kind.replace(' ', '-').replace(',', '')}-{index}-{dtype}"
                lora_cases.write_case(path, case, dtype, index)
                made.append((path, case, dtype))
    ran = replay.run_program(program, [path for path, _, _ in made])
    failed = int(ran.returncode != 0)
    if failed:
        print(f"{program.name} exited with {ran.returncode}:\n{ran.stdout}{ran.stderr}")

    worst: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    judged: dict[str, int] = defaultdict(int)
    for path, case, dtype in made:
        compared, posed = judge_numbers(path, case, dtype)
        if not posed:
            print(f"---- {path.name}: rounding decides it")
            continue
        judged[case.kind] += 1
        problems = compared.problems
        if dtype == "float32":
            problems = problems + judge_files(path, case)
        failed += bool(problems)
        print(
            f"{'FAIL' if problems else 'ok  '} {path.name}  forward {compared.forward_error:.1e}  "
            f"gradient {compared.gradient_error:.1e} ({compared.worst_gradient})"
        )
        for problem in problems[:12]:
            print(f"    {problem}")
        for i, error in enumerate((compared.forward_error, compared.gradient_error)):
            if not error <= worst[dtype][i] and error == error:
                worst[dtype][i] = error
    for kind in kinds:
        if not judged[kind]:
            print(f"FAIL {kind}: rounding decides every case")
            failed += 1
    for dtype, (forward, gradient) in worst.items():
        bounds = replay.BOUNDS[dtype]
        bound = f"bound {bounds.gradient:g}" if bounds.gradient < 1 else "judged by exact ones"
        print(
            f"worst {dtype}: forward {forward:.2e} (bound {bounds.forward:g}), "
            f"gradient {gradient:.2e} ({bound})"
        )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--replay", type=Path, metavar="PROGRAM", required=True, help="the built lora_replay")
    add("--seed", type=int, default=5, help="what to draw the cases from (default 5)")
    add("--kind", choices=list(KINDS), help="only this kind")
    add("--keep", type=Path, metavar="DIR", help="write the case folders here and keep them")
    arguments = parser.parse_args()
    if not arguments.replay.is_file():
        parser.error(f"there is no program {arguments.replay} (the tests' build makes it)")
    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    program = arguments.replay.resolve()
    return judged("lora", arguments.keep, lambda at: run(program, kinds, arguments.seed, at))


if __name__ == "__main__":
    sys.exit(main())
