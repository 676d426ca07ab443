#!/usr/bin/env python3
"""Training adapters with the program: what is saved, resumed, planned and refused.

    python tests/program/lora_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import unittest
from pathlib import Path

import numpy as np

import trestle

PROGRAM = Path()
LORA = ["lora.enabled=true", "lora.rank=3", "lora.alpha=6", "lora.dropout=0.2",
        'lora.targets=["to_q", "to_v", "conv_inverted"]']


class Lora(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.scratch = Path(folder.name)
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.whole = cls.train("whole", "train.steps=6")

    @classmethod
    def train(cls, name: str, *sets: str, ranks: int = 2) -> trestle.Checkpoint:
        run_dir = cls.scratch / name
        trestle.checked(trestle.run(PROGRAM, "train", trestle.TINY, "--run-dir", run_dir,
                                    *trestle.settings(f"data.path={cls.data}",
                                                      "train.micro_batch=6", "checkpoint.every=3",
                                                      "optim.learning_rate=1e-2", *LORA, *sets),
                                    ranks=ranks))
        return trestle.last_checkpoint(run_dir)

    def of_recipe(self, command: str, *sets: str, arguments: tuple = ()):
        return trestle.run(PROGRAM, command, trestle.TINY, *arguments,
                           *trestle.settings(f"data.path={self.data}", *sets))

    def same_bits(self, a: trestle.Checkpoint, b: trestle.Checkpoint) -> None:
        ours, theirs = a.tensors(""), b.tensors("")
        self.assertEqual(ours.keys(), theirs.keys())
        for name, values in ours.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)

    def test_the_adapter_alone_is_trained_and_saved(self) -> None:
        weights = self.whole.tensors("model/")
        # 2 blocks x (2 attentions x to_q, to_v; conv_inverted) x (A, B)
        self.assertEqual(len(weights), 2 * (2 * 2 + 1) * 2)
        for name, values in weights.items():
            self.assertRegex(name, r"lora_[AB]\.weight$")
            self.assertEqual(values.dtype, np.float32)
            self.assertIn(3, values.shape[:2])
            self.assertGreater(np.abs(values).max(), 0, name)  # B began at zero
        self.assertEqual(len(self.whole.tensors("ema/")), len(weights))

    def test_a_resumed_run_has_the_same_bits(self) -> None:
        self.train("halves", "train.steps=3")
        self.same_bits(self.train("halves", "train.steps=6"), self.whole)

    def test_checkpointed_blocks_have_the_same_bits(self) -> None:
        self.same_bits(self.train("blocks", "train.steps=6", "train.checkpoint_every=1"),
                       self.whole)

    def test_ranks_change_rounding_only(self) -> None:
        alone, two = (c.tensors("model/") for c in
                      (self.train("alone", "train.steps=6", ranks=1), self.whole))
        self.assertLess(trestle.distance(alone, two), 1e-4)

    def test_a_16_bit_base_carries_fp32_adapters(self) -> None:
        saved = self.train("narrow", "train.steps=3", "model.dtype=bfloat16", "lora.use_dora=true")
        weights = saved.tensors("model/")
        self.assertTrue(any(name.endswith("lora_magnitude_vector") for name in weights))
        for name, values in weights.items():
            self.assertEqual(values.dtype, np.float32, name)
            self.assertTrue(np.isfinite(values).all(), name)

    def test_pictures_are_made_with_the_adapter(self) -> None:
        pictures = {}
        for weights in ("model", "ema"):
            out = self.scratch / f"{weights}.png"
            trestle.checked(trestle.run(PROGRAM, "sample", self.scratch / "whole", "--out", out,
                                        "--set", f"sample.weights={weights}"))
            pictures[weights] = hashlib.sha256(out.read_bytes()).hexdigest()
        self.assertNotEqual(pictures["model"], pictures["ema"])

    def test_the_plan_counts_the_frozen_model(self) -> None:
        plans = [json.loads(trestle.checked(self.of_recipe(
            "plan", *sets, arguments=("--world", "2", "--json"))).stdout)
            for sets in ([], LORA, [*LORA, "model.dtype=bfloat16"])]
        frozen = [plan["memory_bytes"].get("frozen", 0) for plan in plans]
        self.assertEqual(frozen[0], 0)
        self.assertEqual(frozen[1], 2 * frozen[2])
        self.assertGreater(frozen[2], 0)

    def test_what_does_not_fit_is_refused(self) -> None:
        for sets, message in (
                (["lora.rank=3"], "lora.rank"),
                (["lora.enabled=true", 'lora.targets=["to_qq"]'], 'Did you mean "to_q"'),
                (["lora.enabled=true", 'lora.targets=["conv_depth"]'], "depthwise"),
                (["lora.enabled=true", "lora.targets=[]"], "lora.targets is empty"),
                (["lora.enabled=true", "lora.rank=0"], "lora.rank"),
                (["model.dtype=bfloat16"], "lora.enabled = true")):
            with self.subTest(sets=sets):
                result = self.of_recipe("validate", *sets)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(message, result.stderr)

    def test_bfloat16_without_qk_norm_is_warned_of_once(self) -> None:
        for qk_norm, times in (("none", 1), ("rms_norm_across_heads", 0)):
            result = self.of_recipe("validate", *LORA, "model.dtype=bfloat16",
                                    f"model.qk_norm={qk_norm}")
            trestle.checked(result)
            said = re.findall("model.qk_norm is none", result.stdout + result.stderr)
            self.assertEqual(len(said), times, result.stderr)


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
