"""Random small Gemma 2 cases, answered by transformers' Gemma2Model (eager attention).

Each case is drawn from (seed, index) alone: a configuration, token ids, a mask. Where a token may
look nowhere (padding on the left, say), the library computes NaN in fp64, so there is no fp64 case
of it.
"""

from __future__ import annotations

import json
import random

import torch
from transformers import Gemma2Config, Gemma2Model

import replay
from family_oracle import Config, Drawn, draw_weights, floats_as, in_dtype

MASKS = ["none", "full", "right", "left", "scattered"]


def build_model(config: Config, dtype: torch.dtype) -> Gemma2Model:
    """Made in its dtype: the rotary frequencies are fp32 then, and a later `.to()` rounds them."""
    told = Gemma2Config(**json.loads(json.dumps(config)))  # a copy: the library writes into it
    told._attn_implementation = "eager"
    return in_dtype(dtype, lambda: Gemma2Model(told)).eval()


def draw_config(rng: random.Random) -> Config:
    """A small configuration; every field that reaches the computation varies."""
    key_heads = rng.randint(1, 3)
    heads = key_heads * rng.randint(1, 3)
    layers = rng.randint(1, 4)
    config: Config = {
        "vocab_size": rng.randint(20, 90),
        "hidden_size": heads * rng.randint(3, 12),
        "intermediate_size": rng.randint(5, 60),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": 2 * rng.randint(1, 12),
        "hidden_activation": rng.choice(["gelu_pytorch_tanh"] * 3 + ["gelu", "silu", "swish"]),
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-2]),
        "pad_token_id": rng.choice([0, 0, 7, None]),
        "query_pre_attn_scalar": rng.choice([8, 24, 144, 256]),
        "sliding_window": rng.choice([1, 2, 3, 5, 8, 4096]),
        "attention_bias": rng.random() < 0.3,
        "attn_logit_softcapping": rng.choice([50.0, 50.0, 2.0, 0.7, None]),
        "final_logit_softcapping": rng.choice([30.0, None]),  # the head's: must change nothing
        "attention_dropout": rng.choice([0.0, 0.3]),  # training's: must change nothing
        "initializer_range": 0.02,
    }
    if rng.random() < 0.3:
        kinds = ["sliding_attention", "full_attention"]
        config["layer_types"] = [rng.choice(kinds) for _ in range(layers)]
    theta = rng.choice([10000.0, 500.0, 1000000.0])
    rotary = rng.choice(["default", "now", "old", "older"])
    if rotary == "now":
        config["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    elif rotary == "old":
        config["rope_theta"] = theta
    elif rotary == "older":
        config |= {"rope_theta": theta, "rope_scaling": {"type": "default"}}
    if rng.random() < 0.5:  # the file that the library itself writes
        use_diff = rng.random() < 0.5
        config = json.loads(Gemma2Config(**config).to_json_string(use_diff=use_diff))
    return config


def _draw_mask(rng: random.Random, kind: str, batch: int, tokens: int) -> torch.Tensor:
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    for row in mask:
        kept = rng.randint(1, tokens)
        if kind == "right":
            row[kept:] = 0
        elif kind == "left":
            row[: tokens - kept] = 0
        elif kind == "scattered":
            row[rng.sample(range(tokens), tokens - kept)] = 0
    return mask


def _draw_inputs(rng: random.Random, config: Gemma2Config, kind: str) -> replay.Tensors:
    batch, tokens = rng.randint(1, 3), rng.randint(1, 20)
    ids = [[rng.randrange(config.vocab_size) for _ in range(tokens)] for _ in range(batch)]
    inputs = {"input_ids": torch.tensor(ids)}
    if kind != "none":
        mask = _draw_mask(rng, kind, batch, tokens)
        if config.pad_token_id is not None:
            inputs["input_ids"][mask == 0] = config.pad_token_id
        inputs["attention_mask"] = mask
    return inputs


def _run(model: Gemma2Model, inputs: replay.Tensors) -> torch.Tensor:
    return model(**inputs, use_cache=False).last_hidden_state


def draw_case(seed: int, index: int) -> Drawn:
    """Case `index` of the seed, in each dtype in which the library has an answer."""
    rng = random.Random(f"gemma2/{seed}/{index}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    config = draw_config(rng)
    full = Gemma2Config(**json.loads(json.dumps(config)))
    inputs = _draw_inputs(rng, full, rng.choice(MASKS))
    weights = draw_weights(build_model(config, torch.float64), generator, norm_centre=0.0)
    shape = (*inputs["input_ids"].shape, full.hidden_size)
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)
    answers: list[tuple[replay.Case, replay.Tensors]] = []
    for dtype_name in ("float32", "float64", "bfloat16"):
        dtype = getattr(torch, dtype_name)
        if dtype_name == "float64" and "sees nothing" in turns_of(full, inputs):
            continue
        case = replay.Case(
            family="gemma2",
            config=config,
            dtype=dtype_name,
            weights=floats_as(weights, dtype),
            inputs=inputs,
            cotangent=cotangent.to(dtype) if dtype_name in replay.DTYPES else None,
            grad_inputs=(),
        )
        model = build_model(config, dtype)
        model.load_state_dict(case.weights)
        results = replay.reference_results(model, case, _run)
        if not all(tensor.isfinite().all() for tensor in results.values()):
            raise RuntimeError(f"the library's own answer to case {index} of seed {seed} is NaN")
        answers.append((case, results))
    return Drawn(answers, redraws=0)


def turns_of(full: Gemma2Config, inputs: replay.Tensors) -> set[str]:
    """What of the computation these inputs go through, as far as masks decide it."""
    tokens = inputs["input_ids"].shape[1]
    place = torch.arange(tokens)
    back = place[:, None] - place[None, :]
    turns = set()
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) != 0
    for kind in set(full.layer_types):
        window = full.sliding_window if kind == "sliding_attention" else tokens
        seen = (back >= 0) & (back < window)
        if window < tokens:
            turns.add("window")
        if not (seen[None] & mask[:, None, :]).any(dim=2).all():
            turns.add("sees nothing")
    if not mask.all():
        turns.add("mask")
        turns.add("left padding" if not mask[:, 0].all() else "other padding")
    return turns


def turns_taken(case: replay.Case) -> dict[str, bool]:
    """What of the computation this case goes through."""
    full = Gemma2Config(**json.loads(json.dumps(case.config)))
    turns = turns_of(full, case.inputs)
    names = ("mask", "left padding", "other padding", "window", "sees nothing")
    return {
        **{name: name in turns for name in names},
        "grouped queries": full.num_attention_heads > full.num_key_value_heads > 1,
        "soft cap": full.attn_logit_softcapping is not None,
        "no soft cap": full.attn_logit_softcapping is None,
        "bias": full.attention_bias,
        "exact gelu": full.hidden_activation == "gelu",
        "silu": full.hidden_activation in ("silu", "swish"),
        "other theta": full.rope_parameters["rope_theta"] != 10000.0,
        "pad row": bool((case.inputs["input_ids"] == full.pad_token_id).any())
        if full.pad_token_id is not None
        else False,
    }


def digest(case: replay.Case) -> str:
    """The case in half a line."""
    full = Gemma2Config(**json.loads(json.dumps(case.config)))
    batch, tokens = case.inputs["input_ids"].shape
    taken = [name for name, is_taken in turns_taken(case).items() if is_taken]
    return (
        f"{full.num_hidden_layers}x({full.num_attention_heads}/{full.num_key_value_heads}"
        f"x{full.head_dim}, {full.hidden_size}) B{batch} N{tokens} [{', '.join(taken)}]"
    )

