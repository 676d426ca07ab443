#!/usr/bin/env python3
"""What `trestle explain` says of a recipe's keys, what it refuses, and whether the reference page
of docs/ is what it would print today.

    python tests/program/explain_test.py --trestle build/release/launch/trestle
"""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path

import trestle

PROGRAM = Path("trestle")
PAGE = trestle.ROOT / "docs" / "recipe_reference.md"


def explain(*arguments: object):
    return trestle.run(PROGRAM, "explain", *arguments)


def shown(*arguments: object) -> str:
    return trestle.checked(explain(*arguments)).stdout


class Explain(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def refused(self, result, *words: str) -> None:
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_every_key_has_everything(self) -> None:
        options = json.loads(shown(trestle.TINY, "--json"))
        self.assertGreater(len(options), 40)
        for option in options:
            for field in ("key", "value", "source", "default", "type", "help"):
                self.assertTrue(option[field], f"{option['key']} has no {field}")
        by_key = {option["key"]: option for option in options}
        self.assertEqual(by_key["train.steps"]["unit"], "steps")
        self.assertEqual(by_key["train.steps"]["range"], ">= 1")
        self.assertEqual(by_key["ema.decay"]["needs"], "ema.enabled = true")
        for key in ("train.steps", "log.every", "checkpoint.every", "data.path", "run.name",
                    "dist.bucket_bytes", "dist.shard"):
            self.assertTrue(by_key[key]["may_change"], key)
        for key in ("run.seed", "train.global_batch", "train.micro_batch", "dist.wire_dtype",
                    "optim.learning_rate", "ema.decay", "model.num_layers", "task.noise_scale"):
            self.assertFalse(by_key[key]["may_change"], key)

    def test_all_keys_stand_in_columns(self) -> None:
        lines = shown(trestle.TINY).splitlines()
        columns = [lines[0].index(name) for name in ("VALUE", "DEFAULT", "RESUME", "SOURCE")]
        keys = [line for line in lines[1:] if not line.startswith(" ")]
        self.assertEqual(len(keys), len(json.loads(shown(trestle.TINY, "--json"))))
        for line in keys:
            for column in columns:
                self.assertEqual(line[column - 1], " ", line)
            self.assertNotEqual(line[columns[-1]], " ", line)
        steps = lines.index(next(line for line in lines if line.startswith("train.steps ")))
        self.assertRegex(lines[steps], r"train\.steps +20 +1000 +may change +\S*tiny\.toml:\d+$")
        self.assertRegex(lines[steps + 1], r"^    optimizer steps .*\(integer; >= 1; steps\)$")

    def test_one_key_and_one_section(self) -> None:
        text = shown(trestle.TINY, "ema.decay")
        for words in ("value    0.9", "source   ", "tiny.toml:", "default  0.9999",
                      "range    >= 0 and < 1", "needs    ema.enabled = true", "resume   must stay"):
            self.assertIn(words, text)
        section = shown(trestle.TINY, "optim")
        self.assertIn("optim.adam_beta1", section)
        self.assertNotIn("train.steps", section)

    def test_sources_are_base_child_set_and_default(self) -> None:
        base = self.write("base.toml", f'extends = "{trestle.TINY}"\n[train]\n\nsteps = 7\n')
        child = self.write("child.toml", 'extends = "base.toml"\n[log]\nevery = 3\n')
        options = {o["key"]: o for o in
                   json.loads(shown(child, "--json", "--set", "run.seed=9"))}
        self.assertEqual(options["train.steps"]["source"], f"{base}:4")
        self.assertEqual(options["log.every"]["source"], f"{child}:3")
        self.assertEqual(options["run.seed"]["source"], "--set")
        self.assertEqual(options["run.name"]["source"], "default")
        self.assertEqual((options["train.steps"]["value"], options["train.steps"]["default"]),
                         ("7", "1000"))

    def test_an_unknown_key_names_the_nearest(self) -> None:
        self.refused(explain(trestle.TINY, "optim.learning_rte"), "optim.learning_rate")
        self.refused(explain(trestle.TINY, "warmup"), "optim.lr_warmup_steps")
        self.refused(explain(trestle.TINY, "qqq"), "Leave the key out")

    def test_a_key_without_effect_is_refused_at_its_line_by_every_command(self) -> None:
        recipe = self.write("no_ema.toml", f'extends = "{trestle.TINY}"\n'
                                           "[ema]\nenabled = false\ndecay = 0.8\n")
        sentence = "ema.decay = 0.8 has no effect (ema.enabled = false, and decay is read only " \
                   "when it is true). Remove the key, or set ema.enabled = true."
        for command in (["explain"], ["validate"], ["train", "--run-dir", self.folder / "run"]):
            result = trestle.run(PROGRAM, command[0], recipe, *command[1:])
            self.refused(result, f"{recipe}:4: {sentence}")
        self.assertFalse((self.folder / "run").exists())

    def test_what_a_base_set_may_be_switched_off(self) -> None:
        options = json.loads(shown(trestle.TINY, "--json", "--set", "ema.enabled=false"))
        decay = next(option for option in options if option["key"] == "ema.decay")
        self.assertFalse(decay["has_effect"])

    def test_the_command_line_is_checked(self) -> None:
        self.refused(explain(), "--reference")
        self.refused(explain(trestle.TINY, "--reference"))

    def test_the_reference_page_is_fresh(self) -> None:
        renew = f"{PROGRAM} explain --reference > {PAGE}"
        self.assertTrue(PAGE.exists(), f"{PAGE} is missing. Make it: {renew}")
        self.assertTrue(PAGE.read_text() == shown("--reference"),
                        f"{PAGE} is stale (an option changed). Renew it: {renew}")


if __name__ == "__main__":
    PROGRAM = trestle.take_program(__doc__)
    unittest.main(verbosity=2)
