"""Sana trained on a Brownian bridge by PyTorch's and diffusers' own parts, on given draws.

This is what Trestle must equal: the bridge as the paper prints it (ViBT, arXiv 2511.23199, in
r = 1 - t, so that r = 1 is the source), torch's autograd, clipping and AdamW, diffusers' cosine
schedule and EMAModel, and DistributedDataParallel where there are several processes.

Each process takes a contiguous share of the global batch, a micro batch at a time. A loss is
divided by the size of the global batch before backward. DDP averages gradients over the processes,
where a sum is due, so the loss is also multiplied by their number. Only the last micro batch
communicates (no_sync).
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import distributed
from torch.nn.functional import pixel_unshuffle
from torch.nn.parallel import DistributedDataParallel

import replay
from sana_cases import build_model

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """A run, told completely."""

    exported: Path  # a folder with weights.safetensors and draws.safetensors
    model: dict[str, Any]  # the config of SanaTransformer2DModel
    dtype: str
    codec_factor: int
    noise_scale: float
    steps: int
    compared_at: int  # the step after which tensors are kept
    global_batch: int
    micro_batch: int
    max_grad_norm: float
    learning_rate: float
    lr_warmup_steps: int
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    weight_decay: float
    ema_decay: float


@dataclass
class Trained:
    """What a run leaves: a number for each step, and, by parameter name, the tensors that it had
    after step `compared_at`."""

    loss: list[float]
    grad_norm: list[float]
    lr: list[float]
    weights: Tensors
    ema: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors


def bridge_loss(model: torch.nn.Module, batch: Tensors, noise_scale: float) -> torch.Tensor:
    """The stabilised velocity loss of each sample: mean(((v_net - v) / alpha)^2)."""
    source, target, noise = batch["source"], batch["target"], batch["noise"]
    r = batch["time"].view(-1, 1, 1, 1)
    x = r * source + (1 - r) * target + noise_scale * (r * (1 - r)).sqrt() * noise
    velocity = (x - target) / r
    distance = (source - target).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    elements = source[0].numel()
    alpha = (1 + noise_scale**2 * (1 - r) * elements / (r * distance**2)).sqrt()
    predicted = model(
        x,
        encoder_hidden_states=batch["text"],
        timestep=1000 * batch["time"],
        encoder_attention_mask=batch["text_mask"],
        return_dict=False,
    )[0]
    return ((predicted - velocity) / alpha).square().mean(dim=(1, 2, 3))


def micro_batch(draws: Tensors, step: int, rows: slice, settings: Settings) -> Tensors:
    """These rows of a step's global batch, in the run's dtype, padded to their longest text."""
    dtype = replay.DTYPES[settings.dtype]
    batch = {
        name: draws[f"{step}.{name}"][rows]
        for name in ("source", "target", "text", "text_mask", "time", "noise")
    }
    longest = int(batch["text_mask"].sum(dim=1).max())
    for name in ("text", "text_mask"):
        batch[name] = batch[name][:, :longest]
    for name in ("source", "target"):
        batch[name] = pixel_unshuffle(batch[name], settings.codec_factor)
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in batch.items()}


def train(settings: Settings, rank: int = 0, world: int = 1) -> Trained:
    """The whole run. With world > 1 a process group must be there; all processes end equal."""
    draws = load_file(settings.exported / "draws.safetensors")
    model = build_model(settings.model, replay.DTYPES[settings.dtype]).train()
    model.load_state_dict(load_file(settings.exported / "weights.safetensors"))
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
    )
    schedule = get_cosine_schedule_with_warmup(
        optimizer, settings.lr_warmup_steps, settings.steps
    )
    ema = EMAModel(parameters, decay=settings.ema_decay)
    wrapped = DistributedDataParallel(model) if world > 1 else model

    begin = settings.global_batch * rank // world
    end = settings.global_batch * (rank + 1) // world
    shares = [
        slice(first, min(first + settings.micro_batch, end))
        for first in range(begin, end, settings.micro_batch)
    ]
    names = [name for name, _ in model.named_parameters()]

    def named(tensors: list[torch.Tensor]) -> Tensors:
        return dict(zip(names, (t.detach().clone() for t in tensors), strict=True))

    losses, norms, rates = [], [], []
    kept: dict[str, Tensors] = {}
    for step in range(settings.steps):
        total = torch.zeros((), dtype=torch.float64)
        for rows in shares:
            synchronise = world == 1 or rows is shares[-1]
            with contextlib.nullcontext() if synchronise else wrapped.no_sync():
                batch = micro_batch(draws, step, rows, settings)
                per_sample = bridge_loss(wrapped, batch, settings.noise_scale)
                loss = per_sample.sum() / settings.global_batch
                (loss * world).backward()
            total += loss.detach().double()
        if world > 1:
            distributed.all_reduce(total)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        losses.append(total.item())
        norms.append(norm.item())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step(parameters)
        if step + 1 == settings.compared_at:
            states = [optimizer.state[parameter] for parameter in parameters]
            kept = {
                "weights": named(parameters),
                "ema": named(ema.shadow_params),
                "exp_avg": named([state["exp_avg"] for state in states]),
                "exp_avg_sq": named([state["exp_avg_sq"] for state in states]),
            }
    return Trained(loss=losses, grad_norm=norms, lr=rates, **kept)


def _process(rank: int, world: int, folder: Path, cases: dict[str, Settings]) -> None:
    torch.set_num_threads(1)
    # The depthwise gradients come in strides of their own; the copy this costs is not measured.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{world}", rank=rank, world_size=world
    )
    for name, settings in cases.items():
        trained = train(settings, rank, world)
        if rank == 0:
            torch.save(trained, folder / f"{name}-{world}.pt")
    distributed.destroy_process_group()


def train_ddp(cases: dict[str, Settings], world: int, folder: Path) -> dict[str, Trained]:
    """Every case on `world` processes, which start once: importing takes longer than training."""
    torch.multiprocessing.spawn(_process, (world, folder, cases), nprocs=world)
    return {
        name: torch.load(folder / f"{name}-{world}.pt", weights_only=False) for name in cases
    }
