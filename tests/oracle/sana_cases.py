"""Random small Sana cases, answered by diffusers.

Each case is drawn from (seed, index) alone: a configuration, weights, inputs, and diffusers'
output and gradients in fp32 and fp64. Every parameter is random, also the norms and tables that
training starts at 0 or 1: at those values a forgotten scale or shift goes unseen.

A draw that rounding decides is drawn again: linear attention has a ReLU, whose gradient jumps at
0, and divides by a sum that can come close to 0. There two correct fp32 programs differ by more
than any useful bound, and a comparison says nothing about either.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

import family_oracle
import replay
from family_oracle import Config, Drawn, agree, floats_as, in_dtype

# diffusers' defaults, which a config.json may leave out.
DEFAULTS: Config = {
    name: value
    for name, value in SanaTransformer2DModel(num_layers=0).config.items()
    if not name.startswith("_")
}

QK_NORMS = ("rms_norm_across_heads", "layer_norm_across_heads", "l2")

# Closest that an input of a ReLU may come to 0, over the tensor's root mean square: ten times
# what fp32 rounding moves it by.
RELU_MARGIN = 4e-6
# Smallest denominator of linear attention, over the norms of the two vectors it is a product of.
DENOMINATOR_MARGIN = 1e-2


def build_model(config: Config, dtype: torch.dtype) -> torch.nn.Module:
    return in_dtype(dtype, lambda: SanaTransformer2DModel.from_config(config))


def draw_config(rng: random.Random) -> Config:
    """A small configuration; every field that reaches the computation varies."""
    heads, head_dim = rng.randint(1, 4), rng.choice([7, 8, 12, 16, 24, 32])
    width = heads * head_dim
    patch_size = rng.choice([1, 2])
    # The sincos table is made of sines and cosines of two axes: it needs a width in fours.
    has_positions = rng.random() < 0.6 and width % 4 == 0
    cross_heads, cross_head_dim = rng.choice(
        [(heads, head_dim), (1, width), (rng.randint(1, 3), rng.choice([6, 8, 20]))]
    )
    config = {
        "_class_name": "SanaTransformer2DModel",
        "in_channels": rng.randint(1, 9),
        "out_channels": rng.choice([None, rng.randint(1, 9)]),
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": rng.randint(1, 3),
        "num_cross_attention_heads": cross_heads,
        "cross_attention_head_dim": cross_head_dim,
        "cross_attention_dim": width,
        "caption_channels": rng.randint(3, 40),
        "mlp_ratio": rng.choice([1.0, 1.7, 2.33, 2.5, 3.0]),
        "dropout": 0.0,
        "attention_bias": rng.random() < 0.5,
        "sample_size": patch_size * rng.randint(1, 6) + rng.randrange(patch_size),
        "patch_size": patch_size,
        "norm_elementwise_affine": rng.random() < 0.5,
        "norm_eps": rng.choice([1e-6, 1e-5, 1e-2]),
        "interpolation_scale": rng.choice([0.5, 1, 1.0, 2.0]) if has_positions else None,
        "guidance_embeds": False,
        "guidance_embeds_scale": rng.choice([0.1, 0.7]),  # these two must change nothing
        "timestep_scale": rng.choice([1.0, 0.001]),
        "qk_norm": rng.choice([None, *QK_NORMS]),
    }
    if rng.random() < 0.5:  # older files lack newer fields: an absent one means its default
        for name, default in DEFAULTS.items():
            if config[name] == default:
                del config[name]
    return config


def draw_weights(model: torch.nn.Module, generator: torch.Generator) -> replay.Tensors:
    """Random fp64 values for every parameter, the modulation tables among them."""
    return family_oracle.draw_weights(model, generator, tables=("scale_shift_table",))


def draw_inputs(full: Config, rng: random.Random, generator: torch.Generator) -> replay.Tensors:
    """fp64 inputs: odd and non-square sizes, any times in 0..1000, four kinds of text mask."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, length, patch = rng.randint(1, 4), rng.randint(1, 12), full["patch_size"]
    if rng.random() < 0.2:  # the one size at which diffusers uses the table made at construction
        height = width = full["sample_size"] // patch
    else:
        height, width = rng.randint(1, 11), rng.randint(1, 11)
    times = [rng.choice([0.0, 1000.0] + 6 * [rng.uniform(0, 1000)]) for _ in range(batch)]
    inputs = {
        "hidden_states": normal(batch, full["in_channels"], height * patch, width * patch),
        "encoder_hidden_states": normal(batch, length, full["caption_channels"]),
        "timestep": torch.tensor(times, dtype=torch.float64),
    }
    kind = rng.choice(["none", "full", "right", "scattered"])
    if kind != "none":
        mask = torch.ones(batch, length, dtype=torch.int64)
        for row in mask:
            kept = rng.randint(1, length)  # never 0: a row without text has no defined answer
            if kind == "right":
                row[kept:] = 0
            elif kind == "scattered":
                row[rng.sample(range(length), length - kept)] = 0
        inputs["encoder_attention_mask"] = mask
    return inputs


def draw_case(seed: int, index: int) -> Drawn:
    """Case `index` of the seed in each dtype, drawn until rounding does not decide it."""
    rng = random.Random(f"sana/{seed}/{index}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    config = draw_config(rng)
    full = {**DEFAULTS, **config}
    for redraws in range(1000):
        weights = draw_weights(build_model(config, torch.float64), generator)
        inputs = draw_inputs(full, rng, generator)
        batch, channels, height, width = inputs["hidden_states"].shape
        channels = full["out_channels"] or channels
        cotangent = torch.randn(
            (batch, channels, height, width), generator=generator, dtype=torch.float64
        )
        pairs, well_posed = [], True
        for dtype_name, dtype in replay.DTYPES.items():
            case = replay.Case(
                family="sana",
                config=config,
                dtype=dtype_name,
                weights=floats_as(weights, dtype),
                inputs=floats_as(inputs, dtype),
                cotangent=cotangent.to(dtype),
                grad_inputs=("hidden_states", "encoder_hidden_states"),
            )
            model = build_model(config, dtype)
            model.load_state_dict(case.weights, strict=True)
            seen = watch_linear_attention(model)
            pairs.append((case, replay.reference_results(model, case)))
            well_posed &= is_well_posed(seen, full["num_attention_heads"])
        if well_posed and agree_in_fp32(*(results for _, results in pairs)):
            return Drawn(pairs, redraws)
    raise RuntimeError(f"no sound draw of case {index} of seed {seed} in 1000: {config}")


def digest(case: replay.Case) -> str:
    """The case in half a line."""
    full = {**DEFAULTS, **case.config}
    batch, _, height, width = case.inputs["hidden_states"].shape
    turns = [name for name, taken in turns_taken(case).items() if taken]
    return (
        f"{full['num_layers']}x({full['num_attention_heads']}x{full['attention_head_dim']}, "
        f"cross {full['num_cross_attention_heads']}x{full['cross_attention_head_dim']}) "
        f"B{batch} {height}x{width} L{case.inputs['encoder_hidden_states'].shape[1]} "
        f"[{', '.join(turns)}]"
    )


def turns_taken(case: replay.Case) -> dict[str, bool]:
    """The turns that a forward can take, and whether this case takes them."""
    full = {**DEFAULTS, **case.config}
    height, width = case.inputs["hidden_states"].shape[2:]
    cross_width = full["num_cross_attention_heads"] * full["cross_attention_head_dim"]
    return {
        "no qk_norm": full["qk_norm"] is None,
        **{f"qk_norm {name}": full["qk_norm"] == name for name in QK_NORMS},
        "patch 2": full["patch_size"] == 2,
        "positions": full["interpolation_scale"] is not None,
        "attention_bias": full["attention_bias"],
        "affine norm2": full["norm_elementwise_affine"],
        "mask": "encoder_attention_mask" in case.inputs,
        "non-square": height != width,
        "cross width differs": cross_width != full["cross_attention_dim"],
    }


def watch_linear_attention(model: torch.nn.Module) -> list[torch.Tensor]:
    """A list that each forward fills with q, k of every block, as the ReLU receives them."""
    seen: list[torch.Tensor] = []

    def record(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        seen.append(output.detach())

    for block in model.transformer_blocks:
        attention = block.attn1
        for last in (attention.norm_q or attention.to_q, attention.norm_k or attention.to_k):
            last.register_forward_hook(record)
    return seen


def is_well_posed(seen: list[torch.Tensor], heads: int) -> bool:
    """Whether every ReLU input is clear of 0 and every denominator is clear of cancellation.

    A denominator q . sum(k) is measured over |q| |sum(k)|. One that is exactly 0 (no common
    positive channel) stays so in any program and is welcome: its row of the output is 0.
    """
    for values in seen:
        if values.abs().min() <= RELU_MARGIN * values.square().mean().sqrt():
            return False
    for pair in zip(seen[::2], seen[1::2], strict=True):
        query, key = (values.relu().unflatten(2, (heads, -1)) for values in pair)
        key_sum = key.sum(dim=1, keepdim=True)
        cosine = (query * key_sum).sum(-1) / (query.norm(dim=-1) * key_sum.norm(dim=-1))
        if ((cosine > 0) & (cosine < DENOMINATOR_MARGIN)).any():
            return False
    return True


def agree_in_fp32(fp32: replay.Tensors, fp64: replay.Tensors) -> bool:
    """Whether the reference in fp32 is so near its fp64 self that fp32 bounds can be asked for."""
    return agree(fp32, fp64, "float32", replay.BOUNDS["float32"])
