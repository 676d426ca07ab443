#!/usr/bin/env python3
"""`trestle inspect` of weights: what it says about files that safetensors and torch wrote.

    python tests/program/inspect_weights_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import math
import tempfile
import unittest
from pathlib import Path

import torch
from safetensors.torch import save_file

import trestle

PROGRAM = trestle.take_program(__doc__)


class InspectWeights(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory(prefix="trestle-inspect-")
        self.folder = Path(self.enterContext(scratch))
        self.values = torch.tensor([[0.5, -2.0, 0.0], [math.nan, math.inf, 4.0]])
        self.file = self.folder / "model.safetensors"
        save_file({"a.weight": self.values, "b": torch.ones(3, dtype=torch.bfloat16)}, self.file,
                  {"format": "pt"})  # fmt: skip

    def inspect(self, *arguments: object, code: int = 0) -> str:
        result = trestle.run(PROGRAM, "inspect", *arguments)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout + result.stderr

    def test_a_file_and_its_folder(self) -> None:
        for path in (self.file, self.folder):
            shown = json.loads(self.inspect(path, "--json"))
            self.assertEqual(shown["format"], "safetensors")
            self.assertEqual(shown["metadata"], {"format": "pt"})
            self.assertEqual(shown["files"],
                             [{"name": self.file.name, "bytes": self.file.stat().st_size}])
            self.assertEqual(shown["tensors"]["a.weight"],
                             {"shape": [2, 3], "dtype": "float32", "bytes": 24,
                              "file": "model.safetensors"})  # fmt: skip
            text = self.inspect(path)
            self.assertIn("1 file: 2 tensors (1 bfloat16, 1 float32), 9 numbers, 30 B", text)
            self.assertIn("\n  b bfloat16 [3]\n", text)

    def test_the_numbers_of_a_tensor(self) -> None:
        shown = json.loads(self.inspect(self.file, "--tensor", "a.weight", "--json"))
        numbers = [shown[key] for key in ("elements", "min", "max", "mean", "zeros", "nans",
                                          "infinities")]  # fmt: skip
        self.assertEqual(numbers, [6, -2, 4, 0.625, 1, 1, 1])
        self.assertEqual(shown["first"], [0.5, -2, 0, "nan", "inf", 4])
        self.assertIn("min -2  max 4  mean 0.625", self.inspect(self.file, "--tensor", "a.weight"))
        self.assertIn("Did you mean a.weight?",
                      self.inspect(self.file, "--tensor", "a.wieght", code=2))  # fmt: skip

    def test_a_file_of_torch_save(self) -> None:
        path = self.folder / "state.pt"
        torch.save({"w": self.values.t(), "wide": torch.ones(1).expand(10), "epoch": 3}, path)
        shown = json.loads(self.inspect(path, "--json"))
        self.assertEqual((shown["format"], shown["other_values"]), ("torch.save", 1))
        self.assertEqual(shown["tensors"]["w"]["shape"], [3, 2])
        one = json.loads(self.inspect(path, "--tensor", "w", "--json"))
        self.assertEqual((one["strides"], one["mean"], one["first"][2]), ([1, 3], 0.625, -2))
        self.assertIn("it was expanded", self.inspect(path, "--tensor", "wide", code=2))

    def test_what_cannot_be_shown_is_said(self) -> None:
        self.assertIn("--verify and --diff are for checkpoints",
                      self.inspect(self.file, "--verify", code=2))  # fmt: skip
        self.assertIn("model.fp16.safetensors",
                      self.inspect(self.folder, "--variant", "fp16", code=3))  # fmt: skip
        self.file.write_bytes(self.file.read_bytes()[:-1])
        self.assertIn("is not a whole safetensors file", self.inspect(self.file, code=3))
        with tempfile.TemporaryDirectory() as empty:
            self.inspect(empty, code=5)
            self.assertIn("--variant fp16 is for folders of weights",
                          self.inspect(empty, "--variant", "fp16", code=2))  # fmt: skip


if __name__ == "__main__":
    unittest.main(verbosity=2)
