#!/usr/bin/env python3
"""A pipeline's folder that diffusers saved, read by Trestle part by part.

A small SanaPipeline with random weights is saved as people have it (`model_index.json` and a folder
for each part; the transformer's weights in several shards). `sana_folder_replay FOLDER CASE` has to
give SanaPipeline's prompt embeddings and masks (with the instruction, without it, for an empty
negative prompt), the transformer's guided prediction at given latents and timestep, latents of
pictures and pictures of latents. A folder that lacks or damages a part must be refused, with the
documented exit code and the part's name.

    python tests/oracle/sana_folder_oracle.py --replay build/release/tests/sana_folder_replay
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline,
                       SanaTransformer2DModel)  # fmt: skip
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from gemma_tokenizer import train

SEED = 20260
PROMPTS = ("A Cyberpunk cat  with a neon sign that says \"SANA\"", "  Ein Zug über die BRÜCKE\n",
           "", "雪の中の鉄道 🚂 " + "very " * 400 + "long")  # fmt: skip
NEGATIVE = ("", "Blurry, LOW quality", "", "ugly")
GUIDANCE = 4.5
BOUND = 1e-5  # of the largest value, fp32

Tensors = dict[str, torch.Tensor]


def instruction() -> list[str]:
    """What SanaPipeline.__call__ puts before a prompt, unless it is told otherwise."""
    return inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def make_tokenizer(folder: Path) -> GemmaTokenizer:
    """640 pieces, trained on the instruction and the prompts; saved as tokenizer.json."""
    lines = [line for line in instruction() * 3 + list(PROMPTS) * 3 if line.strip()]
    train(folder, 640, lines)
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}))  # fmt: skip
    return GemmaTokenizer.from_pretrained(folder)


def randomise(model: torch.nn.Module) -> None:
    """Norms that begin at 0 and 1 would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))


def make_pipeline(scratch: Path) -> SanaPipeline:
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer(scratch / "trained")
    encoder = Gemma2Model._from_config(
        Gemma2Config(vocab_size=max(640, len(tokenizer)), hidden_size=32, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                     intermediate_size=64, query_pre_attn_scalar=8),
        attn_implementation="eager")  # fmt: skip
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32,
        caption_channels=32, sample_size=32, qk_norm="rms_norm_across_heads")  # fmt: skip
    blocks = ["ResBlock", "ResBlock", "EfficientViTBlock"]
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_types=blocks,
        decoder_block_types=blocks, encoder_block_out_channels=(8, 16, 16),
        decoder_block_out_channels=(8, 16, 16), encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41407)  # fmt: skip
    for model in (encoder, transformer, vae):
        randomise(model)
        model.eval()
    scheduler = DPMSolverMultistepScheduler(flow_shift=3.0, use_flow_sigmas=True,
                                            prediction_type="flow_prediction")  # fmt: skip
    return SanaPipeline(tokenizer, encoder, vae, transformer, scheduler)


def save(pipe: SanaPipeline, folder: Path) -> None:
    pipe.save_pretrained(folder)
    # As a model of 9 GB is saved: in shards, with an index.
    shutil.rmtree(folder / "transformer")
    pipe.transformer.save_pretrained(folder / "transformer", max_shard_size="40KB")
    shards = list((folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 2, f"{len(shards)} shards"


def reference(folder: Path, inputs: Tensors) -> Tensors:
    """What the library, having loaded the folder, makes of the inputs."""
    pipe = SanaPipeline.from_pretrained(folder)
    found = {}
    with torch.no_grad():
        for name, lines in (("", instruction()), ("plain_", None)):
            text, mask, negative, negative_mask = pipe.encode_prompt(
                list(PROMPTS), True, negative_prompt=list(NEGATIVE), num_images_per_prompt=1,
                complex_human_instruction=lines)  # fmt: skip
            found |= {f"{name}text": text, f"{name}mask": mask, f"{name}negative_text": negative,
                      f"{name}negative_mask": negative_mask}  # fmt: skip
        both = torch.cat([found["negative_text"], found["text"]])
        masks = torch.cat([found["negative_mask"], found["mask"]])
        latents = inputs["latents"]
        timestep = inputs["timestep"].repeat(2) * pipe.transformer.config.timestep_scale
        without, with_text = pipe.transformer(
            latents.repeat(2, 1, 1, 1), encoder_hidden_states=both, encoder_attention_mask=masks,
            timestep=timestep, return_dict=False)[0].chunk(2)  # fmt: skip
        found["guided"] = without + GUIDANCE * (with_text - without)
        scale = pipe.vae.config.scaling_factor
        found["pictures"] = pipe.vae.decode(latents / scale, return_dict=False)[0]
        found["latents"] = pipe.vae.encode(inputs["pictures"]).latent * scale
    return {name: tensor.contiguous() for name, tensor in found.items()}


def run(program: Path, folder: Path, case: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, folder, case], capture_output=True, text=True)


def compare(program: Path, folder: Path, case: Path) -> list[str]:
    torch.manual_seed(SEED + 1)
    case.mkdir()
    inputs = {"latents": torch.randn(len(PROMPTS), 4, 8, 12),
              "timestep": torch.tensor([999.0, 500.5, 20.0, 1.0]),
              "pictures": torch.rand(2, 3, 32, 48) * 2 - 1}  # fmt: skip
    save_file(inputs, case / "inputs.safetensors")
    call = {"prompts": PROMPTS, "negative_prompts": NEGATIVE, "guidance_scale": GUIDANCE}
    (case / "call.json").write_text(json.dumps(call))
    ran = run(program, folder, case)
    if ran.returncode != 0:
        return [f"exit code {ran.returncode}: {ran.stderr.strip()}"]
    ours, wrong = load_file(case / "replayed.safetensors"), []
    for name, want in reference(folder, inputs).items():
        if name not in ours or ours[name].shape != want.shape:
            wrong.append(f"{name} is missing or of another shape")
            continue
        got, want = ours[name].double(), want.double()
        error = float((got - want).abs().max() / want.abs().max())
        exact = name.endswith("mask")
        print(f"{name}: {list(want.shape)}, error {error:.2e}")
        if not error <= (0 if exact else BOUND):
            wrong.append(f"{name}: error {error:.2e}")
    return wrong


def refusals(program: Path, folder: Path, case: Path, scratch: Path) -> list[str]:
    """Each damage must be refused with its exit code (2 a configuration, 3 a file), named."""

    def lose(name: str) -> Any:
        return lambda folder: (folder / name).unlink()

    def lose_shard(folder: Path) -> None:
        sorted((folder / "transformer").glob("*.safetensors"))[1].unlink()

    def cut(folder: Path) -> None:
        file = folder / "vae" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])

    def set_config(name: str, key: str, value: Any) -> Any:
        def change(folder: Path) -> None:
            file = folder / name / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))

        return change

    wrong = []
    for label, damage, codes, words in (
        ("no tokenizer", lambda f: shutil.rmtree(f / "tokenizer"), (3,), "tokenizer"),
        ("no tokenizer.json", lose("tokenizer/tokenizer.json"), (3,), "tokenizer.model"),
        ("missing shard", lose_shard, (3,), "-00002-of-"),
        ("truncated weights", cut, (3,), "diffusion_pytorch_model.safetensors"),
        ("no config", lose("text_encoder/config.json"), (3,), "text_encoder"),
        ("other width", set_config("transformer", "num_layers", 3), (3,), "transformer_blocks.2"),
        ("cannot be run", set_config("transformer", "qk_norm", "layer_norm"), (2,), "qk_norm"),
    ):
        broken = scratch / label.replace(" ", "_")
        shutil.copytree(folder, broken)
        damage(broken)
        ran = run(program, broken, case)
        told = ran.stderr.strip()
        print(f"{label}: exit code {ran.returncode}: {told[:300]}")
        if ran.returncode not in codes or words not in told:
            wrong.append(f"{label}: {ran.returncode} ({codes} expected, naming {words})")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replay", type=Path, required=True)
    parser.add_argument("--keep", type=Path, help="where folder and case stay")
    arguments = parser.parse_args()
    random.seed(SEED)
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = arguments.keep or Path(scratch_name)
        scratch.mkdir(exist_ok=True)
        folder, case = scratch / "pipeline", scratch / "case"
        save(make_pipeline(scratch), folder)
        wrong = compare(arguments.replay, folder, case)
        wrong += refusals(arguments.replay, folder, case, scratch)
    for line in wrong:
        print(f"FAIL {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
