"""Random small Sana models with LoRA adapters, answered by peft.

A case is a Sana (sana_cases.py), one or two adapters as peft's LoraConfig describes them, and
random values for all their tensors: what training starts at zero hides a wrong scale or order. The
files that Trestle reads are those that diffusers and peft write.

Dropout is judged by masks: Trestle draws them, and peft's dropout modules multiply by the same. A
case whose answer rounding decides is drawn again, as for the model itself.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import SanaPipeline
from diffusers.utils import logging
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

import replay
import sana_cases
from family_oracle import floats_as

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
# In bf16 a ReLU's edge decides gradients; they are held against exact ones (lora_oracle.py).
replay.BOUNDS["bfloat16"] = replay.Bounds(2e-2, math.inf)

logging.set_verbosity_error()  # it warns of casts that nobody asked for

ATTENTION = ["to_q", "to_k", "to_v"]
LINEAR = [*ATTENTION, "to_out.0", "linear_1", "linear_2", "time_embed.linear", "proj_out"]
CONVOLUTIONS = ["conv_inverted", "conv_point", "patch_embed.proj"]

Settings = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """What a case is about: its adapters' LoraConfig fields, and how they are used."""

    adapters: list[Settings]
    merge: bool = False
    dropout: bool = False
    bfloat16: bool = False  # also over a bf16 base
    mixed_names: bool = False  # a file of several naming schemes and without a header


KINDS: dict[str, Kind] = {
    "attention": Kind([{"target_modules": ATTENTION}], bfloat16=True),
    "rslora": Kind([{"target_modules": ["to_q", "to_out.0"], "use_rslora": True}], bfloat16=True),
    "linear": Kind([{"target_modules": LINEAR}], bfloat16=True),
    "convolutions": Kind([{"target_modules": CONVOLUTIONS}], bfloat16=True),
    "dora": Kind([{"target_modules": LINEAR, "use_dora": True}], bfloat16=True),
    "dora rslora convolutions": Kind(
        [{"target_modules": CONVOLUTIONS, "use_dora": True, "use_rslora": True}], bfloat16=True
    ),
    "patterns": Kind(
        [{"target_modules": ATTENTION, "rank_pattern": {"attn1.to_q": 5, "to_v": 1},
          "alpha_pattern": {"attn2.to_k": 2.5}}]
    ),
    "mixed names": Kind([{"target_modules": ATTENTION}], mixed_names=True),
    "two": Kind(
        [{"target_modules": ATTENTION}, {"target_modules": ["to_q", *CONVOLUTIONS]}], bfloat16=True
    ),
    "two, one dora": Kind(
        [{"target_modules": LINEAR}, {"target_modules": LINEAR + CONVOLUTIONS, "use_dora": True}]
    ),
    "merge": Kind([{"target_modules": LINEAR + CONVOLUTIONS}], merge=True, bfloat16=True),
    "merge dora": Kind([{"target_modules": LINEAR + CONVOLUTIONS, "use_dora": True}], merge=True),
    "merge two": Kind(
        [{"target_modules": LINEAR}, {"target_modules": ATTENTION, "use_dora": True}], merge=True
    ),
    "dropout": Kind([{"target_modules": LINEAR + CONVOLUTIONS, "lora_dropout": 0.3}], dropout=True),
    "dropout dora": Kind(
        [{"target_modules": LINEAR + CONVOLUTIONS, "lora_dropout": 0.2, "use_dora": True},
         {"target_modules": ATTENTION, "lora_dropout": 0.5}], dropout=True
    ),
}


@dataclass(frozen=True)
class Adapter:
    name: str
    settings: Settings  # of LoraConfig
    tensors: replay.Tensors  # by the name of peft's parameter, in fp64
    weight: float


@dataclass(frozen=True)
class LoraCase:
    """One case, told completely, in fp64."""

    kind: str
    config: sana_cases.Config
    weights: replay.Tensors
    inputs: replay.Tensors
    cotangent: torch.Tensor
    adapters: list[Adapter]
    checkpoint_every: int
    dropout: dict[str, Any] | None
    masks: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # shapes of rows


class GivenMask(torch.nn.Module):
    """Takes the place of a dropout module; torch's own would draw anew."""

    def __init__(self, mask: torch.Tensor, probability: float) -> None:
        super().__init__()
        self.mask, self.probability = mask, probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask.to(x.dtype) / (1 - self.probability)


def adapted_layers(model: torch.nn.Module) -> dict[str, LoraLayer]:
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLayer)}


def build(
    case: LoraCase, dtype: torch.dtype, masks: replay.Tensors | None = None
) -> torch.nn.Module:
    """The reference with its adapters, fp32 ones over a bf16 base; with masks: training."""
    model = sana_cases.build_model(case.config, dtype)
    model.load_state_dict(floats_as(case.weights, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft notes that there are several adapters
        for adapter in case.adapters:
            model.add_adapter(LoraConfig(**adapter.settings), adapter.name)
            cast_adapter_dtype(model, adapter.name)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for adapter in case.adapters:
            for name, value in adapter.tensors.items():
                parameters[name].copy_(value)
    activate(case, model)
    model.train(masks is not None)
    for layer, module in adapted_layers(model).items() if masks else ():
        for adapter in case.adapters:
            mask = masks.get(f"mask.{adapter.name}.{layer}")
            if mask is not None:
                shaped = as_read_by_peft(mask, module.get_base_layer(), case)
                probability = adapter.settings["lora_dropout"]
                module.lora_dropout[adapter.name] = GivenMask(shaped, probability)
    return model


def activate(case: LoraCase, model: torch.nn.Module) -> None:
    model.set_adapters([a.name for a in case.adapters], [a.weight for a in case.adapters])


def as_read_by_peft(
    mask: torch.Tensor, layer: torch.nn.Module, case: LoraCase
) -> torch.Tensor:
    """A mask over tokens [B, N, C p p] as one over pictures [B, C, H, W] for a convolution."""
    if not isinstance(layer, torch.nn.Conv2d):
        return mask
    patch = layer.kernel_size[0]
    config = {**sana_cases.DEFAULTS, **case.config}
    height, width = (
        side // config["patch_size"] for side in case.inputs["hidden_states"].shape[2:]
    )
    return (
        mask.unflatten(2, (layer.in_channels, patch, patch))
        .unflatten(1, (height, width))
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(mask.shape[0], layer.in_channels, height * patch, width * patch)
    )


def results(
    case: LoraCase, dtype_name: str, masks: replay.Tensors | None = None, merge: bool = False
) -> tuple[replay.Tensors, bool]:
    """The reference's results under the names that lora_replay gives them (merged: the output
    alone), and whether rounding leaves them alone."""
    dtype = DTYPES[dtype_name]
    model = build(case, dtype, masks)
    seen = sana_cases.watch_linear_attention(model)
    inputs = {n: t.clone() for n, t in floats_as(case.inputs, dtype).items()}
    leaves = ("hidden_states", "encoder_hidden_states")
    if merge:
        for module in adapted_layers(model).values():
            module.merge()
        with torch.no_grad():
            found = {"output": model(**inputs, return_dict=False)[0]}
    else:
        for name in leaves:
            inputs[name].requires_grad_(True)
        output = model(**inputs, return_dict=False)[0]
        (output * case.cotangent.to(dtype)).sum().backward()
        found = {"output": output.detach()}
        parameters = dict(model.named_parameters())
        for adapter in case.adapters:
            for name in adapter.tensors:
                ours = name.replace(f".{adapter.name}", "")
                if "magnitude" in ours:
                    ours = ours.removesuffix(".weight")
                found[f"grad.{adapter.name}.{ours}"] = parameters[name].grad
        for name in leaves:
            found[f"grad_input.{name}"] = inputs[name].grad
    heads = {**sana_cases.DEFAULTS, **case.config}["num_attention_heads"]
    return found, sana_cases.is_well_posed(seen, heads)


def draw_adapters(
    case: LoraCase, rng: random.Random, generator: torch.Generator
) -> list[Adapter]:
    """Values for the adapters' tensors, of a size that changes the output by about itself."""
    drawn = []
    for adapter in case.adapters:
        alone = LoraCase(**{**vars(case), "adapters": [adapter]})
        tensors = {}
        for name, parameter in build(alone, torch.float64).named_parameters():
            if f".{adapter.name}." not in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if "magnitude" in name:  # peft starts it at the norms of the weight
                tensors[name] = parameter.detach() * (1 + 0.2 * noise)
            else:
                tensors[name] = noise / math.sqrt(parameter[0].numel())
        drawn.append(Adapter(adapter.name, adapter.settings, tensors, adapter.weight))
    return drawn


def row_shapes(case: LoraCase) -> dict[str, dict[str, list[int]]]:
    """What the dropout modules read, as Trestle reads it: tokens, also before a convolution."""
    model = build(case, torch.float64).train()
    shapes: dict[str, dict[str, list[int]]] = {}
    for layer, module in adapted_layers(model).items():
        for adapter, dropout in module.lora_dropout.items():
            if isinstance(dropout, torch.nn.Identity):
                continue

            def record(
                _module: torch.nn.Module, inputs: Any, _output: Any, adapter: str = adapter,
                layer: str = layer, base: torch.nn.Module = module.get_base_layer(),
            ) -> None:
                shape = list(inputs[0].shape[1:])
                if isinstance(base, torch.nn.Conv2d):
                    patch = base.kernel_size[0]
                    channels, height, width = shape
                    shape = [height * width // patch**2, channels * patch**2]
                shapes.setdefault(adapter, {})[layer] = shape

            dropout.register_forward_hook(record)
    model(**floats_as(case.inputs, torch.float64))
    return shapes


def draw_case(kind_name: str, seed: int, index: int) -> LoraCase:
    """Case `index` of the kind; without dropout one that rounding does not decide."""
    kind = KINDS[kind_name]
    rng = random.Random(f"lora/{kind_name}/{seed}/{index}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    config = sana_cases.draw_config(rng)
    full = {**sana_cases.DEFAULTS, **config}
    adapters = []
    for number, settings in enumerate(kind.adapters):
        rank = rng.randint(1, 6)
        alpha = rank if kind.mixed_names else rng.choice([rank, 2 * rank, 0.75 * rank])
        weight = 1.0 if len(kind.adapters) == 1 else rng.choice([0.5, -0.7, 1.3])
        chosen = {"r": rank, "lora_alpha": alpha, **settings}
        adapters.append(Adapter(("style", "detail")[number], chosen, {}, weight))
    for _ in range(200):
        inputs = sana_cases.draw_inputs(full, rng, generator)
        batch, _, height, width = inputs["hidden_states"].shape
        shape = (batch, full["out_channels"] or full["in_channels"], height, width)
        case = LoraCase(
            kind=kind_name,
            config=config,
            weights=sana_cases.draw_weights(
                sana_cases.build_model(config, torch.float64), generator
            ),
            inputs=inputs,
            cotangent=torch.randn(shape, generator=generator, dtype=torch.float64),
            adapters=adapters,
            checkpoint_every=rng.choice([0, 1, 2]),
            dropout={"seed": rng.getrandbits(40),
                     "positions": [rng.getrandbits(30) for _ in range(batch)]}
            if kind.dropout else None,
        )
        case = LoraCase(**{**vars(case), "adapters": draw_adapters(case, rng, generator)})
        if kind.dropout:  # decided once the masks are known
            return LoraCase(**{**vars(case), "masks": row_shapes(case)})
        answers = [results(case, dtype) for dtype in ("float32", "float64")]
        are_posed = all(posed for _, posed in answers)
        if are_posed and sana_cases.agree_in_fp32(*(found for found, _ in answers)):
            return case
    raise RuntimeError(f"no sound draw of {kind_name} {index} of seed {seed} in 200: {config}")


def write_case(folder: Path, case: LoraCase, dtype_name: str, index: int) -> None:
    """The folder that lora_replay reads; the adapters' files by diffusers or peft, in turn."""
    dtype = DTYPES[dtype_name]
    folder.mkdir(parents=True, exist_ok=True)
    model = build(case, dtype)
    for adapter in case.adapters:
        name = f"{adapter.name}.safetensors"
        tensors = get_peft_model_state_dict(model, adapter_name=adapter.name)
        if KINDS[case.kind].mixed_names:
            save_file(mixed_names(tensors), folder / name)
        elif index % 2 == 0:
            model.save_lora_adapter(folder, adapter.name, weight_name=name)
        else:
            SanaPipeline.save_lora_weights(
                folder, tensors, weight_name=name,
                transformer_lora_adapter_metadata=model.peft_config[adapter.name].to_dict(),
            )
    told = {
        "family": "lora",
        "config": case.config,
        "dtype": dtype_name,
        "adapters": [{"name": a.name, "file": f"{a.name}.safetensors", "weight": a.weight}
                     for a in case.adapters],
        "merge": KINDS[case.kind].merge,
        "checkpoint_every": case.checkpoint_every,
        "dropout": case.dropout,
        "masks": case.masks,
    }
    (folder / "case.json").write_text(json.dumps(told, indent=2) + "\n")
    save_file(floats_as(case.weights, dtype), folder / "weights.safetensors")
    inputs = {**floats_as(case.inputs, dtype), "cotangent": case.cotangent.to(dtype)}
    save_file(inputs, folder / "inputs.safetensors")


def mixed_names(tensors: replay.Tensors) -> replay.Tensors:
    """The same tensors, the names of four kinds of programs in turn."""
    forms = [
        lambda key: "transformer." + key,
        lambda key: key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
        lambda key: "base_model.model." + key,
        lambda key: key.replace(".weight", ".default.weight"),
    ]
    return {
        forms[i % 4](key): tensor.contiguous() for i, (key, tensor) in enumerate(tensors.items())
    }
