"""What the oracles of model families share: drawing weights, running all cases, the refusals.

A family describes itself in an `Oracle` and hands it to `main`. Every case is drawn from
(seed, index) alone, answered by the reference in each dtype, replayed by the program, and compared
(replay.py has the folders and the bounds).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import replay

Config = dict[str, Any]
Answer = tuple[replay.Case, replay.Tensors]  # a case, and the reference's results
Made = TypeVar("Made")

# Largest difference between the reference in one dtype and in fp64, as a part of the bounds. In
# bf16, where a bound is five roundings, it can only be asked to be within it.
OWN_ERROR = {"float32": 0.1, "bfloat16": 1.0}


@dataclass(frozen=True)
class Drawn:
    """One configuration with inputs, in each dtype that it is compared in."""

    answers: list[Answer]
    redraws: int


@dataclass(frozen=True)
class Oracle:
    """A model family, as its cases are drawn, named and judged."""

    family: str
    draw: Callable[[int, int], Drawn]  # seed, index
    digest: Callable[[replay.Case], str]
    turns: Callable[[replay.Case], dict[str, bool]]  # what of the forward the case goes through
    has_fused_path: bool
    bounds: dict[str, replay.Bounds] = field(default_factory=lambda: replay.BOUNDS)
    # Changes to the configuration of case 0 that are refused, the word that names why, the exit
    # code: 2 what is not supported, 3 what is malformed.
    refused: list[tuple[Config, str, int]] = field(default_factory=list)
    # Changes of the same kind that are none, or none that matters, and what is said of them.
    accepted: list[tuple[Config, str]] = field(default_factory=list)


def in_dtype(dtype: torch.dtype, make: Callable[[], Made]) -> Made:
    """What `make` makes in its dtype: a later `.to(dtype)` would also convert buffers."""
    torch.set_default_dtype(dtype)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


def floats_as(tensors: replay.Tensors, dtype: torch.dtype) -> replay.Tensors:
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def draw_weights(
    model: torch.nn.Module,
    generator: torch.Generator,
    norm_centre: float = 1.0,
    tables: tuple[str, ...] = (),
) -> replay.Tensors:
    """Random fp64 values for every parameter, of a size that keeps activations near 1.

    Gains of norms are drawn around `norm_centre`, not set to it: there a forgotten one goes unseen.
    What ends with one of `tables` is no matrix, though it has two axes.
    """
    weights = {}
    for name, parameter in model.state_dict().items():
        value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim > 1 and not name.endswith(tables):
            value /= math.sqrt(parameter[0].numel())  # fan-in
        else:
            value = 0.3 * value + (norm_centre if name.endswith(".weight") else 0.0)
        weights[name] = value
    return weights


def agree(
    rounded: replay.Tensors, exact: replay.Tensors, dtype: str, bounds: replay.Bounds
) -> bool:
    """Whether the reference in a dtype is so near its fp64 self that bounds can be asked for."""
    wanted = floats_as({name: exact[name] for name in rounded}, rounded["output"].dtype)
    said = {"fused_calls": "1" if dtype == "float32" else "0"}
    compared = replay.compare(wanted, rounded, said, dtype, bounds)
    return compared.forward_error <= OWN_ERROR[dtype] * bounds.forward and (
        len(rounded) == 1 or compared.gradient_error <= OWN_ERROR[dtype] * bounds.gradient
    )


def mark(fine: bool) -> str:
    return "ok  " if fine else "FAIL"


def print_failing(case: replay.Case, problems: list[str]) -> None:
    """Everything needed to see and repeat a failure."""
    shapes = {name: list(tensor.shape) for name, tensor in case.inputs.items()}
    for problem in problems[:20]:
        print(f"    {problem}")
    if len(problems) > 20:
        print(f"    ... and {len(problems) - 20} more")
    print(f"    dtype {case.dtype}, call {case.call}, inputs {shapes}")
    print("    config " + json.dumps(case.config, indent=2).replace("\n", "\n    "))


def run_cases(oracle: Oracle, program: Path, seed: int, indices: list[int], folder: Path) -> int:
    """Replays the cases in one run of the program; returns the number of failures."""
    made: list[tuple[Path, replay.Case, replay.Tensors]] = []  # folder, case, the answer
    turns: Counter[str] = Counter()
    redraws = 0
    for index in indices:
        drawn = oracle.draw(seed, index)
        redraws += drawn.redraws
        for name, is_taken in oracle.turns(drawn.answers[0][0]).items():
            turns[name] += is_taken
        for case, results in drawn.answers:
            path = folder / f"case-{index:03}-{case.dtype}"
            replay.write_case(path, case)
            made.append((path, case, results))

    ran = replay.run_program(program, [path for path, _, _ in made])
    if ran.returncode != 0:
        print(f"{program.name} exited with {ran.returncode}:\n{ran.stdout}{ran.stderr}")

    failed = 0
    compared_of: dict[str, list[replay.Comparison]] = {}
    for path, case, results in made:
        bounds = oracle.bounds[case.dtype]
        compared = replay.judge(path, results, case.dtype, bounds, oracle.has_fused_path)
        print(
            f"{mark(not compared.problems)} {path.name}  "
            f"forward {compared.forward_error:.1e}  gradient {compared.gradient_error:.1e} "
            f"({compared.worst_gradient})  {oracle.digest(case)}"
        )
        if compared.problems:
            failed += 1
            print_failing(case, compared.problems)
        compared_of.setdefault(case.dtype, []).append(compared)

    taken = ", ".join(f"{name} {count}" for name, count in turns.items())
    print(f"{len(indices)} configurations from seed {seed} ({redraws} drawn again): {taken}")
    for name, comparisons in compared_of.items():
        bounds = oracle.bounds[name]
        forward = max((c.forward_error for c in comparisons), key=replay.nan_is_worst)
        worst = f"forward {forward:.2e} (bound {bounds.forward:g})"
        if name in replay.DTYPES:
            gradient = max((c.gradient_error for c in comparisons), key=replay.nan_is_worst)
            worst += f", gradient {gradient:.2e} (bound {bounds.gradient:g})"
        print(f"worst {name} of {len(comparisons)}: {worst}")
    untaken = [name for name, count in turns.items() if count == 0]
    if len(indices) > 1 and untaken:  # a turn that no case takes is not compared at all
        print(f"FAIL no case goes through: {', '.join(untaken)}")
        failed += 1
    return failed + (ran.returncode != 0 and failed == 0)


def run_refusals(oracle: Oracle, program: Path, seed: int, folder: Path) -> int:
    """Each changed configuration, in a case that is otherwise sound; returns the failures."""
    sound = oracle.draw(seed, 0).answers[0][0]

    def run(changed: Config, name: str) -> tuple[int, str, bool]:
        path = folder / name
        config = {**sound.config, **changed}
        replay.write_case(path, replace(sound, config=config))
        ran = replay.run_program(program, [path])
        said = (ran.stdout + ran.stderr).strip()
        return ran.returncode, said, (path / "replayed.safetensors").exists()

    failed = 0
    # With no change first: without it a program that refuses everything would pass.
    for number, (changed, words) in enumerate([({}, ""), *oracle.accepted]):
        code, said, wrote = run(changed, f"accepted-{number}")
        fine = code == 0 and wrote and words in said
        failed += not fine
        print(f"{mark(fine)} accepted {json.dumps(changed)}: exit code {code}, says: {said}")
    for number, (changed, words, wanted) in enumerate(oracle.refused):
        code, said, wrote = run(changed, f"refused-{number}")
        fine = code == wanted and words in said and not wrote
        failed += not fine
        print(f"{mark(fine)} refused {json.dumps(changed)}: exit code {code}, says: {said}")
        if not fine:
            print(f"    expected exit code {wanted}, {words!r}, and no replayed.safetensors")
    return failed


def judged(name: str, keep: Path | None, work: Callable[[Path], int]) -> int:
    """Does the work in a folder, `keep` or one that goes again, and says what came of it."""
    torch.set_num_threads(1)
    started = time.monotonic()
    folder = keep or Path(tempfile.mkdtemp(prefix=f"{name}_oracle_"))
    try:
        failed = work(folder)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    verdict = f"FAILED: {failed}" if failed else "all passed"
    print(f"{verdict} in {time.monotonic() - started:.1f} s")
    return 1 if failed else 0


def main(
    oracle: Oracle,
    description: str,
    cases: int,
    seed: int = 3,
    self_check: Callable[[int, Path], int] | None = None,
) -> int:
    """`self_check` (seed, folder), if there is one, counts what the comparison fails to notice."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--replay", type=Path, metavar="PROGRAM", help="the built oracle_replay")
    add("--cases", type=int, default=cases, help=f"configurations to draw (default {cases})")
    add("--seed", type=int, default=seed, help=f"what to draw them from (default {seed})")
    add("--case", type=int, metavar="INDEX", help="only this one of the seed's cases")
    add("--keep", type=Path, metavar="DIR", help="write the case folders here and keep them")
    if self_check:
        add("--self-check", action="store_true", help="spoil replays and expect to notice")
    arguments = parser.parse_args()
    if self_check and arguments.self_check:
        return judged(oracle.family, arguments.keep, lambda at: self_check(arguments.seed, at))
    if arguments.replay is None:
        or_else = ", or --self-check" if self_check else ""
        parser.error(f"--replay PROGRAM is needed (the oracle judges a program){or_else}")
    if arguments.cases < 1:
        parser.error("--cases must be 1 or more (no case proves nothing)")
    if not arguments.replay.is_file():
        parser.error(f"there is no program {arguments.replay} (the tests' build makes it)")

    def work(folder: Path) -> int:
        program = arguments.replay.resolve()
        indices = list(range(arguments.cases)) if arguments.case is None else [arguments.case]
        failed = run_cases(oracle, program, arguments.seed, indices, folder)
        if arguments.case is None:
            failed += run_refusals(oracle, program, arguments.seed, folder)
        return failed

    return judged(oracle.family, arguments.keep, work)
