"""Random small DC-AE cases, answered by diffusers.

Each case is drawn from (seed, index) alone: a configuration, encode or decode, a size, sometimes
tiles. A draw that rounding decides is drawn again: attention has a ReLU, whose gradient jumps at 0,
and divides by a sum that can come close to 0.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import torch
from diffusers.models.attention_processor import SanaMultiscaleLinearAttention
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

import replay
from family_oracle import Answer, Config, Drawn, agree, draw_weights, floats_as, in_dtype

# diffusers' defaults, which a config.json may leave out.
with torch.device("meta"):
    DEFAULTS: Config = {
        name: value for name, value in AutoencoderDC().config.items() if not name.startswith("_")
    }

# Closest that an input of a ReLU may come to 0, over the tensor's root mean square: ten times
# what fp32 rounding moves it by.
RELU_MARGIN = 4e-6
# Smallest denominator of attention, over the norms of the two vectors it is a product of.
DENOMINATOR_MARGIN = 1e-3

ACTIVATIONS = ["silu", "swish", "SiLU", "relu", "gelu", "mish"]


def build_model(config: Config, dtype: torch.dtype) -> AutoencoderDC:
    return in_dtype(dtype, lambda: AutoencoderDC.from_config(config))


def _draw_half(rng: random.Random, side: str, levels: int) -> Config:
    """The encoder's or the decoder's lists."""
    layers = [rng.randint(1, 2) for _ in range(levels)]
    if levels > 1 and rng.random() < 0.25:
        layers[0] = 0  # as in DC-AE-Lite
    types: str | list[str] = rng.choices(["ResBlock", "EfficientViTBlock"], [2, 3], k=levels)
    if rng.random() < 0.2:
        types = rng.choice(["ResBlock", "EfficientViTBlock"])
    return {
        f"{side}_block_types": types,
        f"{side}_block_out_channels": [rng.choice([4, 8, 12, 16, 24]) for _ in range(levels)],
        f"{side}_layers_per_block": layers,
        f"{side}_qkv_multiscales": [
            rng.choice([[], [3], [5], [5], [3, 5]]) for _ in range(levels)
        ],
    }


def draw_config(rng: random.Random) -> Config:
    """A small configuration that diffusers can run; every field that it reads varies."""
    while True:
        levels = rng.choice([1, 2, 2, 3])
        config = {
            "_class_name": "AutoencoderDC",
            "_diffusers_version": "0.42.1",
            "in_channels": rng.choice([1, 3, 3]),
            "latent_channels": rng.choice([1, 2, 4]),
            "attention_head_dim": rng.choice([3, 4, 6, 8, 16]),
            **_draw_half(rng, "encoder", levels),
            **_draw_half(rng, "decoder", levels),
            "upsample_block_type": rng.choice(["pixel_shuffle", "interpolate"]),
            "downsample_block_type": rng.choice(["pixel_unshuffle", "conv", "Conv"]),
            "decoder_norm_types": rng.choice(["rms_norm", ["rms_norm"] * levels]),
            "decoder_act_fns": rng.choice(
                [rng.choice(ACTIVATIONS), [rng.choice(ACTIVATIONS) for _ in range(levels)]]
            ),
            "encoder_out_shortcut": rng.random() < 0.7,
            "decoder_in_shortcut": rng.random() < 0.7,
            "decoder_conv_act_fn": rng.choice(["relu", *ACTIVATIONS]),
            "scaling_factor": rng.choice([1.0, 0.41407]),  # must change nothing
        }
        if _runs(config):
            break
    if rng.random() < 0.5:  # older files lack newer fields: an absent one means its default
        for name, default in DEFAULTS.items():
            if config[name] == default:
                del config[name]
    return config


def _runs(config: Config) -> bool:
    """Whether diffusers runs it there and back: channels must fit each other in many places."""
    side = 2 ** (len(config["encoder_block_out_channels"]) - 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of attention without a head
            model = AutoencoderDC.from_config(config)
        with torch.no_grad():
            back = model(torch.zeros(1, config["in_channels"], side, side)).sample
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError):
        return False
    has_heads = all(parameter.numel() > 0 for parameter in model.parameters())
    return has_heads and back.shape[2:] == (side, side)


def _draw_call(rng: random.Random, full: Config) -> tuple[dict[str, Any], int, int]:
    """What is called, and the sides of the latents (tiled pictures may have a rest)."""
    ratio = 2 ** (len(full["encoder_block_out_channels"]) - 1)
    call: dict[str, Any] = {"method": rng.choice(["encode", "decode"])}
    if rng.random() < 0.25:
        height, width = rng.randint(3, 7), rng.randint(3, 7)
        tiles = [rng.randint(1, 3), rng.randint(1, 3)]
        strides = [rng.randint(1, tile) for tile in tiles]
        call["tiling"] = {
            **{"tile_height": ratio * tiles[0], "tile_width": ratio * tiles[1]},
            **{"stride_height": ratio * strides[0], "stride_width": ratio * strides[1]},
        }
    elif rng.random() < 0.3:  # as many pixels as a head has channels
        width = rng.choice([w for w in range(1, 17) if full["attention_head_dim"] % w == 0])
        height = full["attention_head_dim"] // width
    else:
        height, width = rng.randint(1, 6), rng.randint(1, 6)
    return call, height, width


def _draw_input(
    rng: random.Random, generator: torch.Generator, full: Config
) -> tuple[dict[str, Any], replay.Tensors]:
    call, height, width = _draw_call(rng, full)
    ratio = 2 ** (len(full["encoder_block_out_channels"]) - 1)
    name, channels = "z", full["latent_channels"]
    if call["method"] == "encode":
        name, channels = "x", full["in_channels"]
        height, width = ratio * height, ratio * width
        if "tiling" in call:
            height, width = height + rng.randrange(ratio), width + rng.randrange(ratio)
    shape = (rng.randint(1, 2), channels, height, width)
    return call, {name: torch.randn(shape, generator=generator, dtype=torch.float64)}


def _run(call: dict[str, Any]) -> replay.Run:
    def run(model: AutoencoderDC, inputs: replay.Tensors) -> torch.Tensor:
        if "tiling" in call:
            tiling = call["tiling"]
            model.enable_tiling(
                tile_sample_min_height=tiling["tile_height"],
                tile_sample_min_width=tiling["tile_width"],
                tile_sample_stride_height=tiling["stride_height"],
                tile_sample_stride_width=tiling["stride_width"],
            )
        function = model.encode if call["method"] == "encode" else model.decode
        return function(*inputs.values(), return_dict=False)[0]

    return run


def draw_case(seed: int, index: int) -> Drawn:
    """Case `index` of the seed in each dtype, drawn until rounding does not decide it."""
    rng = random.Random(f"dc_ae/{seed}/{index}")
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    config = draw_config(rng)
    full = {**DEFAULTS, **config}
    for redraws in range(1000):
        weights = draw_weights(build_model(config, torch.float64), generator)
        call, inputs = _draw_input(rng, generator, full)
        answers = _answer(config, weights, call, inputs, generator)
        if answers is not None:
            return Drawn(answers, redraws)
    raise RuntimeError(f"no sound draw of case {index} of seed {seed} in 1000: {config}")


def _answer(
    config: Config,
    weights: replay.Tensors,
    call: dict[str, Any],
    inputs: replay.Tensors,
    generator: torch.Generator,
) -> list[Answer] | None:
    """The case in each dtype; none where rounding decides it."""
    run = _run(call)

    def load(dtype: torch.dtype) -> AutoencoderDC:
        model = build_model(config, dtype)
        model.load_state_dict(floats_as(weights, dtype))
        return model

    model = load(torch.float64)
    watch = _Watch(model)
    with torch.no_grad():  # the reference says what shape the output has
        shape = run(model, inputs).shape
    if not watch.is_well_posed():
        return None
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)
    idle = ("decoder.",) if call["method"] == "encode" else ("encoder.",)
    answers: list[Answer] = []
    for dtype_name in ("float64", "bfloat16", "float32"):
        dtype = getattr(torch, dtype_name)
        case = replay.Case(
            family="dc_ae",
            config=config,
            dtype=dtype_name,
            weights=floats_as(weights, dtype),
            inputs=floats_as(inputs, dtype),
            cotangent=cotangent.to(dtype) if dtype_name in replay.DTYPES else None,
            grad_inputs=tuple(inputs),
            call=call,
        )
        results = replay.reference_results(load(dtype), case, run, idle)
        answers.append((case, results))
        exact = answers[0][1]
        if dtype_name != "float64" and not agree(
            results, exact, dtype_name, replay.BOUNDS[dtype_name]
        ):
            return None
    return answers


class _Watch:
    """What every ReLU of a model receives in a forward."""

    def __init__(self, model: AutoencoderDC) -> None:
        self._seen: list[torch.Tensor] = []
        self._pairs: list[list[torch.Tensor]] = []  # q and k of each attention
        for module in model.modules():
            if isinstance(module, torch.nn.ReLU):
                module.register_forward_pre_hook(self._record)
            if isinstance(module, SanaMultiscaleLinearAttention):
                self._follow(module.nonlinearity)

    def _record(self, _module: torch.nn.Module, inputs: Any) -> None:
        self._seen.append(inputs[0].detach())

    def _follow(self, relu: torch.nn.Module) -> None:
        pair: list[torch.Tensor] = []
        self._pairs.append(pair)
        relu.register_forward_hook(lambda _module, _inputs, out: pair.append(out.detach()))

    def is_well_posed(self) -> bool:
        """Whether every ReLU input is clear of 0 and every denominator clear of cancellation.

        A denominator q . sum(k) is measured over |q| |sum(k)|. One that is exactly 0 (no common
        positive channel) stays so in any program and is welcome: its row of the output is 0.
        """
        for values in self._seen:
            if values.abs().min() <= RELU_MARGIN * values.square().mean().sqrt():
                return False
        for pair in self._pairs:
            for query, key in zip(pair[::2], pair[1::2], strict=True):
                key_sum = key.sum(dim=3, keepdim=True)
                scale = query.norm(dim=2) * key_sum.norm(dim=2)
                cosine = (query * key_sum).sum(dim=2) / scale
                if ((cosine > 0) & (cosine < DENOMINATOR_MARGIN)).any():
                    return False
        return True


def digest(case: replay.Case) -> str:
    """The case in half a line."""
    full = {**DEFAULTS, **case.config}
    side = "encoder" if case.call["method"] == "encode" else "decoder"
    (tensor,) = case.inputs.values()
    taken = [name for name, is_taken in turns_taken(case).items() if is_taken]
    return (
        f"{full[f'{side}_block_out_channels']} x {full[f'{side}_layers_per_block']} "
        f"E{full['attention_head_dim']} {list(tensor.shape)} [{', '.join(taken)}]"
    )


def turns_taken(case: replay.Case) -> dict[str, bool]:
    """What of the computation this case goes through."""
    full = {**DEFAULTS, **case.config}
    method = case.call["method"]
    side = "encoder" if method == "encode" else "decoder"
    layers = full[f"{side}_layers_per_block"]
    types = full[f"{side}_block_types"]
    types = [types] * len(layers) if isinstance(types, str) else types
    (tensor,) = case.inputs.values()
    height, width = tensor.shape[2:]
    ratio = 2 ** (len(layers) - 1)
    if method == "encode":
        height, width = height // ratio, width // ratio
    is_tiled = "tiling" in case.call
    attended = [
        height * width * 4 ** (len(layers) - 1 - level)
        for level, (kind, count) in enumerate(zip(types, layers, strict=True))
        if kind == "EfficientViTBlock" and count > 0 and not is_tiled
    ]
    head_dim = full["attention_head_dim"]
    return {
        "encode": method == "encode",
        "decode": method == "decode",
        "linear": any(pixels > head_dim for pixels in attended),
        "quadratic": any(pixels < head_dim for pixels in attended),
        "at the switch": head_dim in attended,
        "tiles": is_tiled,
        "no finest blocks": layers[0] == 0,
        "interpolate": method == "decode" and full["upsample_block_type"] == "interpolate",
        "pixel_shuffle": method == "decode" and full["upsample_block_type"] == "pixel_shuffle",
        "conv": method == "encode" and full["downsample_block_type"] != "pixel_unshuffle",
        "pixel_unshuffle": method == "encode"
        and full["downsample_block_type"] == "pixel_unshuffle",
        "rest of channels": any(
            channels % head_dim
            for channels, kind in zip(full[f"{side}_block_out_channels"], types, strict=True)
            if kind == "EfficientViTBlock"
        ),
    }
