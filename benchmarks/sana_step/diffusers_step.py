#!/usr/bin/env python3
"""Trains Sana in diffusers on random data, a round at a time, and says how fast.

The contender of sana_step_trestle: the same model, batch, loss and kind of step. One step draws
times and noise, runs the Brownian-bridge loss forward and backward over the micro batches, clips
by global norm, steps AdamW and the EMA. Data lies ready in memory: loading is not measured.

For "go N" on standard input it takes N steps and answers one JSON line: samples_per_s (wall
clock), samples_per_cpu_s (CPU time of all threads, for a look on a busy machine), loss (mean over
the round) and parameters. It ends with its input. The first "go" pays for warming up.

Set up as the libraries' documentation advises for a CPU: AdamW(fused=True), EMAModel(foreach=True)
and torch's default (foreach) clipping. `--compile` and `--channels-last` try two further pieces of
advice; benchmarks/sana_step/run takes the contender's flags with --diffusers-flags.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from diffusers.training_utils import EMAModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rounds import serve  # noqa: E402

POOL = 64  # pairs in memory, visited in turn


class Trainer:
    """The model, its optimizer and the pool of random pairs."""

    def __init__(
        self,
        workload: dict[str, Any],
        batch: int,
        micro_batch: int,
        compiles: bool = False,
        channels_last: bool = False,
        backward_only: bool = False,
    ) -> None:
        self.batch, self.micro_batch = batch, micro_batch
        self.backward_only = backward_only
        self.noise_scale = workload["noise_scale"]
        self.max_grad_norm = workload["max_grad_norm"]

        model = SanaTransformer2DModel.from_config(workload["model"]).train()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=workload["learning_rate"],
            betas=(workload["adam_beta1"], workload["adam_beta2"]),
            weight_decay=workload["adam_weight_decay"],
            eps=workload["adam_epsilon"],
            fused=True,
        )
        self.ema = EMAModel(self.parameters, decay=workload["ema_decay"], foreach=True)
        self.model = torch.compile(model) if compiles else model

        config = workload["model"]
        shape = (POOL, config["in_channels"], workload["latent_height"], workload["latent_width"])
        self.source, self.target = torch.randn(shape), torch.randn(shape)
        text_shape = (POOL, workload["text_tokens"], config["caption_channels"])
        self.text = torch.randn(text_shape)
        self.text_mask = torch.ones(text_shape[:2], dtype=torch.int64)
        self.next_pair = 0

    def loss(self, pairs: torch.Tensor) -> torch.Tensor:
        """The stabilised bridge loss of each pair: mean((w v - v~)^2), in r (r = 1: source)."""
        source, target = self.source[pairs], self.target[pairs]
        r = torch.rand(len(pairs), 1, 1, 1)
        noise = torch.randn_like(source)
        difference = source - target
        rho = difference.square().mean(dim=(1, 2, 3), keepdim=True)
        s = self.noise_scale
        noisy = r * source + (1 - r) * target + s * (r * (1 - r)).sqrt() * noise
        scale = (r * rho + s * s * (1 - r)).sqrt()
        velocity = self.model(
            noisy,
            encoder_hidden_states=self.text[pairs],
            timestep=1000 * r.flatten(),
            encoder_attention_mask=self.text_mask[pairs],
            return_dict=False,
        )[0]
        weight = (r * rho).sqrt() / scale
        wanted = rho.sqrt() * (r.sqrt() * difference + s * (1 - r).sqrt() * noise) / scale
        return (weight * velocity - wanted).square().mean(dim=(1, 2, 3))

    def forward(self) -> torch.Tensor:
        """The loss of the next micro batch, as a part of the batch's mean."""
        pairs = torch.arange(self.next_pair, self.next_pair + self.micro_batch) % POOL
        self.next_pair = (self.next_pair + self.micro_batch) % POOL
        return self.loss(pairs).sum() / self.batch

    def update(self) -> None:
        """From gradients to new weights and averages."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)

    def step(self) -> float:
        """One optimizer step over the batch; returns its mean loss."""
        total = 0.0
        for _ in range(self.batch // self.micro_batch):
            loss = self.forward()
            loss.backward()
            total += loss.item()
        if self.backward_only:
            for parameter in self.parameters:
                parameter.grad = None
        else:
            self.update()
        return total

    def round(self, steps: int) -> dict[str, float | int]:
        """Takes the steps and returns what is printed about them."""
        wall, cpu = time.perf_counter(), time.process_time()
        loss = sum(self.step() for _ in range(steps)) / steps
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        samples = steps * self.batch
        return {
            "samples_per_s": samples / wall,
            "samples_per_cpu_s": samples / cpu,
            "loss": loss,
            "parameters": sum(parameter.numel() for parameter in self.parameters),
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workload",
        type=Path,
        default=Path(__file__).with_name("workload.json"),
        help="model, sizes and optimizer settings (default: workload.json beside this file)",
    )
    parser.add_argument("--batch", type=int, default=8, help="samples a step (default 8)")
    parser.add_argument("--micro-batch", type=int, help="samples a backward (default: the batch)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default 1)")
    parser.add_argument("--backward-only", action="store_true", help="no update of the weights")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--channels-last", action="store_true", help="weights in channels_last")
    arguments = parser.parse_args()
    arguments.micro_batch = arguments.micro_batch or arguments.batch
    if arguments.batch % arguments.micro_batch:
        parser.error(
            f"--batch {arguments.batch} is not a multiple of --micro-batch {arguments.micro_batch}"
        )

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    trainer = Trainer(
        json.loads(arguments.workload.read_text()),
        arguments.batch,
        arguments.micro_batch,
        arguments.compile,
        arguments.channels_last,
        arguments.backward_only,
    )
    return serve({"go": trainer.round})


if __name__ == "__main__":
    sys.exit(main())
