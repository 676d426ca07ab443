"""The Python side of the replay program: case folders, the reference's answer, the comparison.

A case folder holds everything that an outside judge and `oracle_replay` need to compute the same
forward and backward pass:

    case.json             {"family", "config", "dtype", "call": {"inputs", "grad_inputs", and
                          what the family adds, such as which of two functions is called}}
    weights.safetensors   the reference's state_dict(), same names
    inputs.safetensors    the reference's forward arguments by name, plus "cotangent" (without
                          it only the forward pass is compared, as in bfloat16)
    replayed.safetensors  written by the program: "output" and, for the loss
                          sum(output * cotangent), "grad.<parameter>" and "grad_input.<argument>";
                          its metadata says in "fused_calls" how often fused kernels ran

A model family adds one script that draws configurations and builds the reference; the rest is
here. Bounds: a forward error is max|a - b| / max|b|. A gradient error is the norm of the
difference over max(norm of that gradient, 0.1 x norm of all gradients), because some gradients
are exactly zero in truth and only rounding noise is left of them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"float32": torch.float32, "float64": torch.float64}
# Of families that are used in bf16 the forward pass is compared in it, too.
FORWARD_DTYPES = {"bfloat16": torch.bfloat16}

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Bounds:
    """Largest accepted errors, both relative (see the top of the file)."""

    forward: float
    gradient: float


# The fp64 bounds hold only where the reference's fp32 islands are copied operation by operation.
BOUNDS = {
    "float32": Bounds(1e-5, 1e-4),
    "float64": Bounds(1e-10, 1e-10),
    "bfloat16": Bounds(2e-2, 2e-2),
}


@dataclass(frozen=True)
class Case:
    """One forward and backward pass, told completely."""

    family: str
    config: dict[str, Any]
    dtype: str
    weights: Tensors
    inputs: Tensors  # forward arguments by name
    cotangent: torch.Tensor | None  # none: the forward pass alone
    grad_inputs: tuple[str, ...]  # the arguments whose gradient is compared
    call: dict[str, Any] = field(default_factory=dict)  # what the family needs to be told besides


@dataclass
class Comparison:
    """What one replay got wrong, and by how much; no problems means it passed."""

    forward_error: float = math.nan
    gradient_error: float = math.nan
    worst_gradient: str = "-"
    problems: list[str] = field(default_factory=list)


def write_case(folder: Path, case: Case) -> None:
    """Writes the case's three files; an older replay in the folder is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "replayed.safetensors").unlink(missing_ok=True)
    told = {
        "family": case.family,
        "config": case.config,
        "dtype": case.dtype,
        "call": {
            "inputs": sorted(case.inputs),
            "grad_inputs": list(case.grad_inputs),
            **case.call,
        },
    }
    (folder / "case.json").write_text(json.dumps(told, indent=2) + "\n")
    save_file(_contiguous(case.weights), folder / "weights.safetensors")
    inputs = dict(case.inputs)
    if case.cotangent is not None:
        inputs["cotangent"] = case.cotangent
    save_file(_contiguous(inputs), folder / "inputs.safetensors")


Run = Callable[[torch.nn.Module, Tensors], torch.Tensor]


def call_for_tuple(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """The output of a model that diffusers' way returns a tuple."""
    return model(**inputs, return_dict=False)[0]


def reference_results(
    model: torch.nn.Module, case: Case, run: Run = call_for_tuple, idle: tuple[str, ...] = ()
) -> Tensors:
    """The reference's output and gradients, named as `oracle_replay` names them.

    `model` holds the case's weights in the case's dtype; `run` calls it. Parameters whose names
    begin with one of `idle` take no part, and their gradient is zero.
    """
    inputs = {
        name: tensor.clone().requires_grad_(name in case.grad_inputs)
        for name, tensor in case.inputs.items()
    }
    output = run(model, inputs)
    results = {"output": output.detach()}
    if case.cotangent is None:
        return results
    (output * case.cotangent).sum().backward()
    for name, parameter in model.named_parameters():
        is_idle = parameter.grad is None and name.startswith(idle)
        results[f"grad.{name}"] = torch.zeros_like(parameter) if is_idle else parameter.grad
    for name in case.grad_inputs:
        results[f"grad_input.{name}"] = inputs[name].grad
    unreached = [name for name, tensor in results.items() if tensor is None]
    if unreached:
        raise ValueError(f"the reference's loss does not reach {', '.join(unreached)}")
    return results


def run_program(
    program: Path, arguments: list[str | Path], timeout_s: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Runs the program on one thread, as the oracles do, and returns what it said."""
    return subprocess.run(
        [str(program), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def judge(
    folder: Path,
    expected: Tensors,
    dtype: str,
    bounds: Bounds | None = None,
    has_fused_path: bool = True,
) -> Comparison:
    """Compares what the program left in the folder with the reference's results."""
    path = folder / "replayed.safetensors"
    if not path.exists():
        return Comparison(problems=["replayed.safetensors was not written"])
    with safe_open(path, framework="pt") as opened:
        replayed = {name: opened.get_tensor(name) for name in opened.keys()}
        metadata = opened.metadata() or {}
        return compare(expected, replayed, metadata, dtype, bounds, has_fused_path)


def compare(
    expected: Tensors,
    replayed: Tensors,
    metadata: dict[str, str],
    dtype: str,
    bounds: Bounds | None = None,
    has_fused_path: bool = True,
) -> Comparison:
    """Judges a replay against the reference's results, under the bounds of its dtype if none."""
    bounds = bounds or BOUNDS[dtype]
    result = Comparison()
    result.problems += _fused_calls_problems(metadata, dtype, has_fused_path)
    result.problems += [f"{name} is missing" for name in expected if name not in replayed]
    result.problems += [f"{name} is too many" for name in replayed if name not in expected]

    differences: dict[str, torch.Tensor] = {}
    for name in expected.keys() & replayed.keys():
        want, got = expected[name], replayed[name]
        if want.shape != got.shape or want.dtype != got.dtype:
            result.problems.append(
                f"{name} is {got.dtype} {list(got.shape)}, not {want.dtype} {list(want.shape)}"
            )
        else:
            differences[name] = got.double() - want.double()

    if "output" in differences:
        largest = expected["output"].double().abs().max()
        result.forward_error = (differences["output"].abs().max() / largest).item()
        # Written so that a NaN, which compares false with everything, is a problem too.
        if not result.forward_error <= bounds.forward:
            result.problems.append(
                f"output is off by {result.forward_error:.3g} (bound {bounds.forward:g})"
            )

    norms = {name: tensor.double().norm().item() for name, tensor in expected.items()}
    del norms["output"]
    floor = 0.1 * math.hypot(*norms.values())
    errors = {
        name: difference.norm().item() / max(norms[name], floor)
        for name, difference in differences.items()
        if name in norms
    }
    for name, error in errors.items():
        if not error <= bounds.gradient:
            result.problems.append(f"{name} is off by {error:.3g} (bound {bounds.gradient:g})")
    if errors:
        result.worst_gradient = max(errors, key=lambda name: nan_is_worst(errors[name]))
        result.gradient_error = errors[result.worst_gradient]
    return result


def nan_is_worst(error: float) -> float:
    """A key for max(): plain comparisons with a NaN are all false, so it could be passed over."""
    return math.inf if math.isnan(error) else error


def _fused_calls_problems(
    metadata: dict[str, str], dtype: str, has_fused_path: bool
) -> list[str]:
    """The fused path is what training takes, so fp32 must have run it; the others must not."""
    said = metadata.get("fused_calls", "")
    if not said.isdecimal():
        return [f'metadata "fused_calls" is {said!r}, not a count']
    wanted = dtype == "float32" and has_fused_path
    if wanted and int(said) == 0:
        return ["no fused kernel ran, so this says nothing about the path that training takes"]
    if not wanted and int(said) != 0:
        return [f"{said} fused kernels ran in {dtype}, where the reference's operations are due"]
    return []


def _contiguous(tensors: Tensors) -> Tensors:
    """safetensors writes only contiguous tensors that own their memory."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
