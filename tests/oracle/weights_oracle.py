#!/usr/bin/env python3
"""Weights of diffusers, safetensors and torch.save, as Trestle loads them; and its own, as they do.

Every value must be the same bits (or torch's own cast of them). Folders: a small Sana, saved in
shards, in one file and as a variant; what Trestle writes must be the same files, byte by byte, and
load again in diffusers. torch.save: random nests of dicts and lists with views, shared storages,
parameters and optimizers, in all dtypes. Then files that were cut, lied about or made to harm, and
the memory that loading 0.6 GB takes.

    python tests/oracle/weights_oracle.py --load-weights build/release/tests/load_weights
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any, Iterator

import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel
from safetensors import safe_open

PROGRAM = Path()
DATA = 3  # the exit code of files that are not what they should be

SANA = {
    **{"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8},
    **{"num_layers": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8},
    **{"cross_attention_dim": 16, "caption_channels": 32, "sample_size": 8},
    **{"qk_norm": "rms_norm_across_heads"},
}
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn),
    torch.float8_e8m0fnu,
]
MAX_GROWTH = 1.1  # of the weights' bytes


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """What `load_weights --save` made of it. Their order is the file's, by dtype and name."""
    with safe_open(f"{path}.loaded.safetensors", framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, list[int], bytes]:
    # A copy, since contiguous() leaves odd strides where a size is 1.
    plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()).reshape(-1)
    return plain.dtype, list(tensor.shape), plain.view(torch.uint8).numpy().tobytes()


def small_sana(seed: int, dtype: torch.dtype = torch.float32) -> SanaTransformer2DModel:
    torch.manual_seed(seed)
    model = SanaTransformer2DModel(**SANA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.to(dtype)


class Judge(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="trestle-weights-")
        self.folder = Path(self.enterContext(scratch))

    def load(self, *arguments: object) -> dict[str, Any]:
        """The program's words about the last path."""
        ran = run(*arguments)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        return json.loads(ran.stdout.splitlines()[-1])

    def assert_same(self, want: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
        self.assertEqual(sorted(want), sorted(got))
        for name, tensor in want.items():
            self.assertEqual(bits(tensor), bits(got[name]), name)

    def assert_refused(self, ran: subprocess.CompletedProcess[str], *words: str) -> None:
        self.assertEqual(ran.returncode, DATA, ran.stdout + ran.stderr)
        for word in words:
            self.assertIn(word, ran.stderr)


class Folders(Judge):
    def test_a_sharded_folder_of_diffusers_loads_exactly(self) -> None:
        model = small_sana(1)
        model.save_pretrained(self.folder, max_shard_size="20KB")
        shards = list(self.folder.glob("*.safetensors"))
        self.assertGreater(len(shards), 2)
        sana = ["--sana", self.folder / "config.json", "--save"]
        for name in ("float32", "bfloat16", "float64"):
            dtype = getattr(torch, name)
            told = self.load(self.folder, *sana, "--dtype", name)
            self.assert_same(
                {key: value.to(dtype) for key, value in model.state_dict().items()},
                loaded(self.folder),
            )
            self.assertEqual(told["tensors"], len(model.state_dict()))
            self.assertEqual(told["direct_bytes"], told["bytes"] if name == "float32" else 0)

    def test_trestle_writes_the_files_that_diffusers_writes(self) -> None:
        model = small_sana(2, torch.bfloat16)
        for size in ("9KB", "10GB"):
            theirs, ours = self.folder / f"theirs-{size}", self.folder / f"ours-{size}"
            ours.mkdir()
            model.save_pretrained(theirs, max_shard_size=size)
            limit = {"9KB": 9_000, "10GB": 10_000_000_000}[size]
            self.load(theirs, "--sana", theirs / "config.json", "--dtype", "bfloat16",
                      "--folder", ours, "--max-shard-bytes", limit)  # fmt: skip
            names = sorted(p.name for p in theirs.iterdir() if p.name != "config.json")
            self.assertEqual(sorted(p.name for p in ours.iterdir()), names)
            self.assertEqual(len(names) == 1, size == "10GB", names)
            for name in names:
                self.assertEqual((ours / name).read_bytes(), (theirs / name).read_bytes(), name)
            shutil.copy(theirs / "config.json", ours)
            again, info = SanaTransformer2DModel.from_pretrained(
                ours, dtype=torch.bfloat16, output_loading_info=True
            )
            self.assertFalse(any(info.values()), info)
            self.assert_same(model.state_dict(), again.state_dict())

    def test_a_variant_is_loaded_when_it_is_named(self) -> None:
        for size, word in (("20KB", "index"), ("10GB", "safetensors")):
            folder = self.folder / size
            model = small_sana(3, torch.float16)
            model.save_pretrained(folder, variant="fp16", max_shard_size=size)
            arguments = [folder, "--sana", folder / "config.json"]
            self.assert_refused(run(*arguments), "has no weights", "fp16", word)
            ran = run(*arguments, "--variant", "fp16")
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertEqual(ran.stderr.count("tensors are float16"), 1, ran.stderr)

    def test_broken_folders_are_refused(self) -> None:
        small_sana(4).save_pretrained(self.folder, max_shard_size="20KB")
        shard = sorted(self.folder.glob("*.safetensors"))[1]
        index = self.folder / "diffusion_pytorch_model.safetensors.index.json"
        whole, said = shard.read_bytes(), index.read_text()

        shard.write_bytes(whole[:-1])
        self.assert_refused(run(self.folder), shard.name, "is not a whole safetensors file")
        shard.unlink()
        self.assert_refused(run(self.folder), f"the shard {shard.name} is missing")
        shard.write_bytes(whole)
        index.write_text(said.replace('"total_size": ', '"total_size": 1'))
        self.assert_refused(run(self.folder), "total_size is 1")
        index.write_text(said.replace("proj_out.bias", "proj_out.offset"))
        renamed = 'has no tensor "proj_out.offset"'
        self.assert_refused(run(self.folder), renamed, "but not in the index")
        index.write_text(said)

        config = json.loads((self.folder / "config.json").read_text())
        wrong = self.folder / "wrong.json"
        wrong.write_text(json.dumps({**config, "num_layers": 3, "caption_channels": 31}))
        self.assert_refused(
            run(self.folder, "--sana", wrong),
            "missing: transformer_blocks.2.attn1.norm_q.weight [16]",
            "of another shape: caption_projection.linear_1.weight is [16, 32], "
            "the model has [16, 31]",
        )
        self.load(self.folder, "--sana", self.folder / "config.json")


def names_of(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a nest, named as Trestle names them."""
    if isinstance(value, torch.Tensor):
        yield name or "tensor", value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from names_of(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from names_of(item, f"{name}.{index}" if name else str(index))


class Nests:
    """Draws nests of everything that is read."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"weights/{seed}")
        self.generator = torch.Generator().manual_seed(seed)
        self.storages: list[torch.Tensor] = []

    def tensor(self) -> torch.Tensor:
        rng = self.rng
        if self.storages and rng.random() < 0.3:  # a part of one that is there already
            whole = rng.choice(self.storages).reshape(-1)
            begin = rng.randrange(len(whole) + 1)
            return whole[begin : rng.randint(begin, len(whole))]
        shape = [rng.randint(0 if rng.random() < 0.1 else 1, 5) for _ in range(rng.randint(0, 4))]
        dtype = rng.choice(DTYPES)
        count = max(1, torch.Size(shape).numel()) * dtype.itemsize
        raw = torch.randint(0, 256, (count,), generator=self.generator, dtype=torch.uint8)
        if dtype == torch.bool:
            raw %= 2
        tensor = raw.view(dtype)[: torch.Size(shape).numel()].reshape(shape)
        self.storages.append(tensor)
        kind = rng.random()
        if kind < 0.2 and tensor.ndim:
            return tensor.permute(*rng.sample(range(tensor.ndim), tensor.ndim))
        if kind < 0.3 and tensor.ndim:
            return tensor[..., :: rng.randint(1, 3)]
        if kind < 0.4:
            return tensor.expand(rng.randint(0, 3), *tensor.shape)
        if kind < 0.8 and dtype.is_floating_point and dtype.itemsize > 1:
            return torch.nn.Parameter(tensor, requires_grad=rng.random() < 0.5)
        return tensor

    def value(self, depth: int) -> Any:
        rng = self.rng
        if depth == 0 or rng.random() < 0.4:
            if rng.random() < 0.7:
                return self.tensor()
            leaves = [None, True, -3, 2**40, -(2**70), 1e-5, "text", "é\n" * 200, (), 1000]
            return rng.choice(leaves)
        items = [self.value(depth - 1) for _ in range(rng.randint(0, 5))]
        kind = rng.randrange(4)
        if kind == 0:
            return items
        if kind == 1:
            return tuple(items)
        keys = rng.sample(["weight", "block.0.bias", "ü", "", 0, 7, -1, 300, 70000], len(items))
        make = dict if kind == 2 else collections.OrderedDict
        return make(zip(keys, items, strict=True))


class TorchFiles(Judge):
    def test_nests_are_read_exactly(self) -> None:
        made: list[tuple[Path, dict[str, torch.Tensor]]] = []
        seen: collections.Counter[str] = collections.Counter()
        for seed in range(60):
            nest = {"nest": Nests(seed).value(4)}
            named = list(names_of(nest))
            if len({name for name, _ in named}) < len(named):
                continue  # a dot in a key made two names one
            path = self.folder / f"{seed}.{random.Random(seed).choice(['pt', 'pth', 'bin'])}"
            torch.save(nest, path)
            made.append((path, dict(named)))
            for _, tensor in named:
                seen[str(tensor.dtype)] += 1
                seen["not contiguous"] += not tensor.is_contiguous()
                seen["parameter"] += isinstance(tensor, torch.nn.Parameter)
        self.assertGreater(min(seen[str(dtype)] for dtype in DTYPES), 3, seen)
        self.assertGreater(min(seen["not contiguous"], seen["parameter"]), 10, seen)
        ran = run("--save", *(path for path, _ in made))
        self.assertEqual(ran.returncode, 0, ran.stderr)
        for path, want in made:
            with self.subTest(path.name):
                self.assert_same(want, loaded(path))

    def test_a_training_state_and_a_state_dict_of_a_model(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 2}
        whole, alone = self.folder / "whole.pt", self.folder / "pytorch_model.bin"
        torch.save(state, whole)
        torch.save(model.state_dict(), alone)
        self.load("--save", whole, alone)
        self.assert_same(dict(names_of(state)), loaded(whole))
        self.assert_same(dict(model.state_dict()), loaded(alone))
        self.assertIn("optimizer.state.0.exp_avg_sq", loaded(whole))

    def test_sana_from_a_bin_file(self) -> None:
        model = small_sana(5)
        model.save_pretrained(self.folder, safe_serialization=False)
        path = self.folder / "diffusion_pytorch_model.bin"
        sana = ["--sana", self.folder / "config.json", "--dtype", "bfloat16", "--save"]
        self.load(path, *sana)
        want = {name: value.bfloat16() for name, value in model.state_dict().items()}
        self.assert_same(want, loaded(path))
        self.assert_refused(run(self.folder, *sana), f"It has {path.name}: name that file.")

    def test_nothing_is_executed_and_other_files_are_named(self) -> None:
        mark = self.folder / "executed"

        class Touch:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.system, (f"touch {mark}",)

        path = self.folder / "x.pt"
        refused: list[tuple[Any, dict[str, Any], str]] = [
            ({"a": Touch()}, {}, 'asks for "system" of the Python module "posix"'),
            (torch.nn.Linear(2, 2), {}, '"Linear" of the Python module "torch.nn.modules.linear"'),
            ({"a": torch.eye(2).to_sparse()}, {}, '"_rebuild_sparse_tensor"'),
            ({"a": torch.empty(2, device="meta")}, {}, '"_rebuild_meta_tensor_no_storage"'),
            ({"a": torch.zeros(2, dtype=torch.complex128)}, {}, '"ComplexDoubleStorage"'),
            ({"a": torch.ones(2, dtype=torch.complex64).conj()}, {}, "conjugated or negated"),
            ({"a": 1}, {"pickle_protocol": 4}, "not of protocol 2"),
            ({"a": torch.ones(2)}, {"_use_new_zipfile_serialization": False}, "before torch 1.6"),
        ]
        for value, options, words in refused:
            with self.subTest(words):
                torch.save(value, path, **options)
                self.assert_refused(run(path), words, "oad it in Python")
        self.assertFalse(mark.exists())
        torch.save({"a": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:-100])
        self.assert_refused(run(path), "it was cut off")


class Memory(Judge):
    def test_large_folders_are_never_in_memory_twice(self) -> None:
        begin = time.monotonic()
        width, tensors, shards = 5_000_000, 60, 2
        block = torch.arange(width).to(torch.int16)
        words, total = tensors * int(block.sum()), tensors * 2 * width
        weights = {}
        for shard in range(shards):  # by hand, since save_file takes three times as long
            file = f"diffusion_pytorch_model-{shard + 1:05}-of-{shards:05}.safetensors"
            header = {}
            for place, index in enumerate(range(shard, tensors, shards)):
                offsets = [2 * width * place, 2 * width * (place + 1)]
                name = f"layer.{index}.weight"
                header[name] = {"dtype": "BF16", "shape": [width], "data_offsets": offsets}
                weights[name] = file
            text = json.dumps(header).encode()
            with (self.folder / file).open("wb") as out:
                out.write(struct.pack("<Q", len(text)) + text)
                for _ in header:
                    out.write(memoryview(block.numpy()).cast("B"))
        index = {"metadata": {"total_size": total}, "weight_map": weights}
        (self.folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps(index)
        )
        # As they are, and as another dtype of the same size, which goes through buffers.
        for arguments, direct in (([], total), (["--dtype", "float16"], 0)):
            told = self.load(self.folder, *arguments)
            self.assertEqual((told["bytes"], told["direct_bytes"]), (total, direct))
            if direct:
                self.assertEqual(told["words"], words)
            growth = told["grown_bytes"] / total
            print(f"{total / 1e9:.1f} GB {arguments}: memory grew by {growth:.3f} of it")
            self.assertGreater(growth, 0.95, "less than the weights cannot be")
            self.assertLess(growth, MAX_GROWTH)
        print(f"in {time.monotonic() - begin:.1f} s")


def main() -> None:
    global PROGRAM
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load-weights", type=Path, required=True, metavar="PROGRAM")
    known, sys.argv[1:] = parser.parse_known_args()
    PROGRAM = known.load_weights.resolve()
    torch.set_num_threads(1)
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
