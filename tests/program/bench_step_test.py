#!/usr/bin/env python3
"""`trestle plan` and `trestle bench step` on two ranks: what is planned is what is measured, the
parts of a step add up to it, the trace shows buckets that are reduced while backward runs, and bad
input is refused.

    python tests/program/bench_step_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

import trestle

PROGRAM = Path("trestle")
PARTS = ("forward_s", "backward_s", "optimizer_s", "exposed_s", "data_wait_s", "other_s")


class BenchStep(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.scratch = Path(tempfile.mkdtemp(prefix="trestle-bench-step-"))
        cls.data = trestle.make_data(cls.scratch / "data")
        cls.calibration = cls.scratch / "comm.json"
        trestle.checked(trestle.run(PROGRAM, "bench", "comm", "--max-bytes", "256KB", "--rounds", 3,
                                    "--save", cls.calibration, ranks=2))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(cls.scratch)

    @classmethod
    def recipe(cls, *sets: str) -> list[object]:
        values = (f"data.path={cls.data}", "dist.bucket_bytes=20000", *sets)
        return [trestle.TINY, *[a for s in values for a in ("--set", s)]]

    def bench(self, *options: object, sets: tuple[str, ...] = (), ranks: int = 2,
              steps: int = 6) -> dict:
        said = trestle.checked(trestle.run(
            PROGRAM, "bench", "step", *self.recipe(*sets), "--steps", steps, "--trace",
            self.scratch / "trace.json", *options, "--json", ranks=ranks))
        return json.loads(said.stdout)

    def plan(self, *options: object, sets: tuple[str, ...] = (), world: int = 2) -> dict:
        said = trestle.checked(trestle.run(PROGRAM, "plan", *self.recipe(*sets), "--world", world,
                                           *options, "--json"))
        return json.loads(said.stdout)

    def refused(self, code: int, *words: str, command: list[object], ranks: int = 0) -> None:
        result = trestle.run(PROGRAM, *command, ranks=ranks)
        self.assertEqual(result.returncode, code, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_parts_add_up_and_buckets_are_reduced_while_backward_runs(self) -> None:
        # Long enough that the progress thread gets its turn even where others keep the cores busy.
        result = self.bench("--calibration", self.calibration,
                            sets=("model.num_layers=16", "train.micro_batch=6"))
        self.assertEqual((result["world"], result["steps"], len(result["ranks"])), (2, 6, 2))
        for rank in result["ranks"]:
            self.assertEqual(rank["samples"], 6)
            self.assertGreater(rank["median"]["backward_s"], 0)
        # Medians of parts need not add up to the median of the whole; nearly they do.
        median = result["median"]
        self.assertAlmostEqual(sum(median[p] for p in PARTS) / median["step_s"], 1, delta=0.2)
        self.assertLess(median["other_s"], 0.25 * median["step_s"])
        self.assertTrue(0 <= median["hidden_share"] <= 1)
        self.assertGreater(result["predicted"]["step_s"], 0)
        self.assertGreaterEqual(result["predicted"]["step_s"],
                                result["alone"]["forward_s"] + result["alone"]["backward_s"])
        self.check_trace(json.loads((self.scratch / "trace.json").read_text()))

    def check_trace(self, trace: dict) -> None:
        events = trace["traceEvents"]
        early = 0
        for rank in (0, 1):
            mine = [e for e in events if e["pid"] == rank]
            lanes = {e["tid"]: e["args"]["name"] for e in mine if e["name"] == "thread_name"}
            self.assertEqual(lanes[0], "step")
            buckets = {name for name in lanes.values() if "bucket" in name}
            self.assertGreater(len(buckets), 3)
            spans = [e for e in mine if e["ph"] == "X"]
            steps = [e for e in spans if e["cat"] == "step"]
            self.assertEqual([e["args"]["step"] for e in steps], [3, 4, 5, 6, 7, 8])
            backwards = {e["args"]["step"]: e for e in spans if e["name"] == "backward"}
            for step in steps:
                inside = [e for e in spans if e["name"] == "reduce_scatter"
                          and step["ts"] <= e["ts"] < step["ts"] + step["dur"]]
                self.assertEqual({lanes[e["tid"]] for e in inside}, buckets)
                last = max(inside, key=lambda e: e["ts"])
                backward = backwards[step["args"]["step"]]
                end = backward["ts"] + backward["dur"]
                early += any(e["ts"] + e["dur"] < end for e in inside if e is not last)
                phases = [e for e in spans if e["cat"] == "phase"
                          and e["args"]["step"] == step["args"]["step"]]
                covered = sum(e["dur"] for e in phases)
                self.assertLessEqual(covered, step["dur"] * 1.001)
                self.assertGreater(covered, step["dur"] * 0.7)
        self.assertGreater(early, 0, "no bucket but the last was reduced before backward ended")

    def test_memory_is_as_planned(self) -> None:
        for sets in (("dist.shard=none",), ("dist.shard=optimizer",), ("dist.shard=gradients",),
                     ("dist.shard=none", "train.checkpoint_every=1"),
                     ("dist.shard=optimizer", "train.checkpoint_every=1"),
                     ("dist.shard=gradients", "train.checkpoint_every=2"),
                     ("dist.shard=none", "dist.wire_dtype=bf16"),
                     ("dist.shard=gradients", "dist.wire_dtype=bf16", "train.micro_batch=3"),
                     ("model.dtype=float64", "train.micro_batch=6"),
                     ("ema.enabled=false", "train.micro_batch=6", "model.num_layers=6"),
                     ("model.num_layers=6", "train.micro_batch=6", "train.checkpoint_every=2")):
            with self.subTest(sets=sets):
                result = self.bench("--warm-up", 4, sets=sets, steps=1)
                planned = result["planned_tensor_bytes"]
                self.assertEqual(planned, self.plan(sets=sets)["memory_bytes"]["total"])
                for rank in result["ranks"]:
                    self.assertAlmostEqual(planned / rank["tensor_bytes"], 1, delta=0.05)

    def test_checkpoint_is_as_planned(self) -> None:
        for shard in ("none", "optimizer", "gradients"):
            with self.subTest(shard=shard):
                run_dir = self.scratch / f"run-{shard}"
                sets = (f"dist.shard={shard}", "train.steps=1")
                trestle.checked(trestle.run(PROGRAM, "train", *self.recipe(*sets), "--run-dir",
                                            run_dir, ranks=2))
                pieces = [0, 0]
                for tensor in trestle.last_checkpoint(run_dir).manifest["tensors"].values():
                    for piece in tensor["pieces"]:
                        pieces["shard-00001" in str(piece["file"])] += piece["bytes"]
                planned = self.plan(sets=sets)["checkpoint_bytes"]
                self.assertEqual(planned["ranks"], pieces)
                self.assertEqual(planned["total"], sum(pieces))

    def test_plan_predicts_what_bench_step_measured(self) -> None:
        without = self.plan()
        self.assertIsNone(without["step"])
        self.assertIn("trestle bench comm --save", without["why_no_time"])
        self.assertGreater(without["sent_bytes"]["reduction"], 0)
        self.assertIn("no compute times",
                      self.plan("--calibration", self.calibration)["why_no_time"])

        full = self.scratch / "full.json"
        measured = self.bench("--calibration", self.calibration, "--save", full)
        planned = self.plan("--calibration", full)
        self.assertEqual(planned["why_no_time"], "")
        self.assertAlmostEqual(planned["step"]["step_s"] / measured["predicted"]["step_s"], 1,
                               delta=0.01)
        for word, options, sets, world in (
                ("2 ranks, not 3", (), (), 3),
                ("train.micro_batch 1 there, 2 here", (), ("train.micro_batch=2",), 2),
                ("parameters", (), ("model.num_layers=1",), 2)):
            other = self.plan("--calibration", full, *options, sets=sets, world=world)
            self.assertIsNone(other["step"])
            self.assertIn(word, other["why_no_time"])

    def test_one_rank_has_no_communication(self) -> None:
        result = self.bench(ranks=0)
        self.assertEqual(result["median"]["communication_s"], 0)
        self.assertIsNone(result["median"]["hidden_share"])
        self.assertIsNone(result["predicted"])
        self.assertEqual(self.plan(world=1)["sent_bytes"], {"reduction": 0, "gather": 0})

    def test_a_plan_needs_neither_data_nor_memory(self) -> None:
        sets = (f"data.path={self.scratch / 'nowhere'}", "model.num_layers=60",
                "model.num_attention_heads=70", "model.attention_head_dim=32",
                "model.num_cross_attention_heads=20", "model.cross_attention_head_dim=112",
                "model.cross_attention_dim=2240", "model.caption_channels=2304")
        plan = self.plan(sets=sets, world=4)
        self.assertGreater(plan["parameters"], 4e9)
        self.assertIsNone(plan["memory_bytes"]["activations"])
        self.assertIn("nowhere", plan["activations_unknown"])
        self.assertAlmostEqual(plan["checkpoint_bytes"]["total"] / plan["parameters"], 16)
        shown = trestle.checked(trestle.run(PROGRAM, "plan", *self.recipe(*sets), "--world", 4))
        self.assertRegex(shown.stdout, r"activations +\?")
        self.assertIn("no time: no --calibration", shown.stdout)

    def test_the_table_and_the_picture(self) -> None:
        run = trestle.checked(trestle.run(PROGRAM, "bench", "step", *self.recipe(), "--steps", 3,
                                          ranks=2, cwd=self.scratch))
        for word in ("step", "exposed comm.", "% of it hidden", "data wait", "predicted",
                     "planned"):
            self.assertIn(word, run.stdout)
        trace = self.scratch / "runs" / "tiny" / "traces" / "bench_step.json"
        self.assertTrue(trace.exists())
        self.assertFalse((self.scratch / "runs" / "tiny" / "checkpoints").exists())

        plot = [sys.executable, trestle.ROOT / "tools" / "plot_trace"]
        picture = self.scratch / "trace.png"
        subprocess.run([*plot, trace, "--out", picture], check=True, capture_output=True)
        with Image.open(picture) as image:
            self.assertGreater(min(image.size), 300)
        for code, file, options in ((3, self.calibration, ()), (2, trace, ("--step", 99))):
            wrong = subprocess.run([str(a) for a in (*plot, file, "--out", picture, *options)],
                                   text=True, capture_output=True, check=False)
            self.assertEqual(wrong.returncode, code, wrong.stderr)

    def test_bad_input(self) -> None:
        broken = self.scratch / "broken.json"
        broken.write_text('{"format": "trestle calibration", "version": 1}')
        plan, step = ["plan", *self.recipe(), "--world", 2], ["bench", "step", *self.recipe()]
        self.refused(2, "--world", command=["plan", *self.recipe()])
        self.refused(2, "--world", command=["plan", *self.recipe(), "--world", 0])
        self.refused(2, "less than the 13 ranks",
                     command=["plan", *self.recipe(), "--world", 13])
        self.refused(2, "model.num_layer",
                     command=["plan", *self.recipe("model.num_layer=3"), "--world", 2])
        self.refused(3, "broken.json is no calibration", "\"world\" is missing",
                     command=[*plan, "--calibration", broken])
        self.refused(3, "nowhere.json", command=[*plan, "--calibration", "nowhere.json"])
        self.refused(2, "--steps", command=[*step, "--steps", 0])
        self.refused(2, "nowhere", command=["bench", "step", "nowhere.toml"])
        self.refused(3, "broken.json", command=[*step, "--calibration", broken], ranks=2)
        self.refused(2, "between 2 ranks, and these are 1",
                     command=[*step, "--calibration", self.calibration, "--save", "x.json"])
        self.refused(3, "pairs.jsonl", command=["bench", "step", trestle.TINY, "--set",
                                                f"data.path={self.scratch}"], ranks=2)
        self.refused(4, "broken.json", command=[*step, "--steps", 1, "--trace",
                                                broken / "trace.json"], ranks=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True, help="the built program")
    options, rest = parser.parse_known_args()
    PROGRAM = options.trestle.resolve()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
