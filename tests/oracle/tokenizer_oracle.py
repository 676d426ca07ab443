#!/usr/bin/env python3
"""Compares models/text with transformers, diffusers and Python itself.

Three SentencePiece tokenizers (640, 4,000 and 32,000 pieces) are trained from a seed, made Gemma
tokenizers by transformers, and saved: as tokenizer.json and as tokenizer.model, each with <bos> and
without. `tokenizer_replay` then has to give transformers' ids for every string and their texts
back, what SanaPipeline.encode_prompt hands to its text encoder and keeps of the answer, and
Python's lower() and strip() for every character.

    python tests/oracle/tokenizer_oracle.py --replay build/release/tests/tokenizer_replay
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

import sentencepiece
import torch
from diffusers import SanaPipeline
from transformers import GemmaTokenizer
from transformers.utils import logging as transformers_logging

import tokenizer_texts as texts
from gemma_tokenizer import train

SIZES = {640: 0, 4000: 600_000, 32000: 5_000_000}  # pieces: characters to train on
STRINGS = 4000  # a tokenizer
MOST_SHOWN = 3
# The Unicode of models/text/unicode_tables.cpp.
UNICODE = "14.0.0"

failures = 0


def report(name: str, compared: int, wrong: list[str], note: str = "") -> None:
    global failures
    failures += bool(wrong)
    print(f"{'FAIL' if wrong else 'ok  '} {name}: {compared} compared{note}", flush=True)
    for line in wrong[:MOST_SHOWN]:
        print(f"       {line}")


@dataclass
class Replay:
    program: Path

    def __call__(self, what: str, folder: Path | str = "", lines: Iterable[Any] = ()) -> list[Any]:
        told = "".join(json.dumps(line) + "\n" for line in lines)
        ran = subprocess.run([self.program, what, str(folder)], input=told, capture_output=True,
                             text=True, encoding="utf-8")
        if ran.returncode != 0:
            raise SystemExit(f"{what} {folder}: exit code {ran.returncode}: {ran.stderr.strip()}")
        # Not splitlines(): texts may hold U+2028 and others of its kind.
        return [json.loads(line) for line in ran.stdout.split("\n")[:-1]]


@dataclass
class Form:
    """A folder as somebody may have it, and the tokenizer that transformers makes of it."""

    name: str
    folder: Path
    reference: Any


def forms(folder: Path) -> list[Form]:
    found = []
    for bos in (True, False):
        name = "bos" if bos else "no bos"
        model = folder / f"model, {name}"
        model.mkdir()
        (model / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
        config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": bos}
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        saved = folder / f"json, {name}"
        GemmaTokenizer.from_pretrained(model).save_pretrained(saved)
        found.append(Form(model.name, model, GemmaTokenizer.from_pretrained(model)))
        found.append(Form(saved.name, saved, GemmaTokenizer.from_pretrained(saved)))
    return found


def older_form(saved: Path, folder: Path) -> Form:
    """As transformers 4 left it: merges as texts, lengths of the last use, the added tokens in the
    configuration, too (here without some, to see which list counts)."""
    folder.mkdir()
    tokenizer = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    tokenizer["truncation"] = {"direction": "Right", "max_length": 300, "strategy": "LongestFirst",
                               "stride": 0}
    tokenizer["padding"] = {"strategy": {"Fixed": 300}, "direction": "Left", "pad_id": 0,
                            "pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "<pad>"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    listed = {str(token.pop("id")): token for token in tokenizer["added_tokens"]
              if token["content"] not in ("<h1>", "\n\n\n")}
    config = {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": listed,
              "additional_special_tokens": texts.TURNS, "bos_token": "<bos>", "legacy": None,
              "clean_up_tokenization_spaces": False, "eos_token": "<eos>", "pad_token": "<pad>",
              "model_max_length": 1e30, "sp_model_kwargs": {}, "unk_token": "<unk>",
              "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    names = {"bos_token": {"content": "<bos>", "lstrip": False, "normalized": False,
                           "rstrip": False, "single_word": False}, "eos_token": "<eos>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return Form(folder.name, folder, GemmaTokenizer.from_pretrained(folder))


def compare_ids(replay: Replay, label: str, form: Form, strings: list[str]) -> None:
    want = form.reference(strings)["input_ids"]
    got = replay("encode", form.folder, strings)
    wrong = [f"{text!r}: {a}, by transformers {b}" for text, a, b in zip(strings, got, want)
             if a != b]
    bos = sum(ids[:1] == [form.reference.bos_token_id] for ids in want) / len(want)
    report(f"{label} ids, {form.name}", len(want), wrong, f" ({bos:.0%} begin with <bos>)")
    rng = random.Random(f"decode/{label}")
    lists = want[::4] + [[rng.randrange(len(form.reference)) for _ in range(rng.randint(0, 12))]
                         for _ in range(500)]
    wrong = []
    for ids, (kept, left_out) in zip(lists, replay("decode", form.folder, lists)):
        decoded = [form.reference.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
        if [kept, left_out] != decoded:
            wrong.append(f"{ids}: {[kept, left_out]!r}, by transformers {decoded!r}")
    report(f"{label} decoded, {form.name}", len(lists), wrong)


class Echo(torch.nn.Module):
    """A text encoder whose answer says which id stood where, and which notes what it was given."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
        self.given.append((ids, attention_mask))
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        return (torch.stack([ids, positions], -1).double(),)


def compare_prompts(replay: Replay, label: str, form: Form, instruction: list[str],
                    strings: list[str]) -> None:
    rng = random.Random(f"prompts/{label}")
    long = " ".join(rng.choices(texts.PROMPTS, k=60)).upper()
    prompts = [*texts.PROMPTS, "", "  Padded\t\n", long, "\u039f\u0394\u039f\u03a3 STREET",
               "<bos>a <mask>", *rng.sample(strings, 20)]
    compared, wrong = 0, []
    for lines in (instruction, [], ["Look:", "at this "], [""]):
        for length in (300, 16):
            if lines == [""] and not form.reference("")["input_ids"]:
                continue  # diffusers' own selection then lies outside
            negative = rng.choice(["", "Blurry, LOW quality ", long])
            encoder = Echo()
            pipeline = SanaPipeline(form.reference, encoder, None, None, None)
            kept, mask, kept_n, mask_n = pipeline.encode_prompt(
                prompts, True, negative, device=torch.device("cpu"), max_sequence_length=length,
                complex_human_instruction=lines or None)
            asked = {"prompts": prompts, "negative": [negative] * len(prompts), "length": length,
                     "instruction": None if lines is instruction else lines}
            [got] = replay("prompt", form.folder, [asked])
            for side, given, embeds, masks in (("positive", encoder.given[0], kept, mask),
                                               ("negative", encoder.given[1], kept_n, mask_n)):
                ours = got[side]
                ids, all_mask = (torch.tensor(ours[key]).view(-1, ours["length"])
                                 for key in ("ids", "mask"))
                compared += 1
                if ids.shape != given[0].shape or not (torch.equal(ids, given[0])
                                                       and torch.equal(all_mask, given[1])):
                    wrong.append(f"{side}, instruction {lines!r}, {length}: the encoder is given "
                                 f"other tokens ({list(ids.shape)}, {list(given[0].shape)})")
                    continue
                selected = torch.tensor(ours["selected"])
                positions = embeds[:, :, 1].long()
                if not (torch.equal(ids[:, selected], embeds[:, :, 0].long())
                        and torch.equal(selected.expand_as(positions), positions)
                        and torch.equal(all_mask[:, selected], masks)):
                    wrong.append(f"{side}, instruction {lines!r}, {length}: others are kept")
    report(f"{label} prompts, {form.name}", compared, wrong,
           f" (batches of {len(prompts)} prompts)")


def compare_with_sentencepiece(replay: Replay, label: str, form: Form, strings: list[str]) -> None:
    """The file's own library agrees with what transformers makes of it, but for special tokens that
    are written out and for long runs of spaces."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(form.folder / "tokenizer.model"))
    strings = [text for text in strings if texts.is_everyday(text)]
    wrong = [f"{text!r}: {a}, by libsentencepiece {b}"
             for text, a, b in zip(strings, replay("encode", form.folder, strings),
                                   own.encode(strings)) if a != b]
    report(f"{label} ids by libsentencepiece, everyday strings", len(strings), wrong)


def lowered_and_stripped(text: str) -> list[str]:
    return [text.lower(), text.strip(), text.lower().strip()]


def compare_texts(replay: Replay) -> None:
    # Each character alone, at both ends, and where it can decide what a sigma becomes.
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    lines = [f"{c}a\u03a3{c} {c}\u03a3 A{c}\u03a3 \u03a3{c}a A\u03a3{c}a {c}" for c in characters]
    wrong = []
    for c, line, got in zip(characters, lines, replay("text", lines=lines)):
        # Another Python may know more characters: they differ only where the tables have nothing.
        newer = unicodedata.unidata_version != UNICODE and got[0].startswith(c)
        if got != lowered_and_stripped(line) and not newer:
            wrong.append(f"U+{ord(c):04X} in {line!r}: {got}")
    report("lower and strip of every character", len(lines), wrong,
           f" (this Python's Unicode is {unicodedata.unidata_version})")
    rng = random.Random("sigma")
    alphabet = [*"aA1 .'", *"\u03a3\u03a3\u03a3\u03c3\u0130\u00b7\u0301\u00ad\u2019\u3000\x1f",
                *"\u02b0\u1d2c\u4e2d", "\U0001d400", "\U00010400", "\U000e0001"]
    lines = ["".join(rng.choices(alphabet, k=rng.randint(0, 9))) for _ in range(50_000)]
    wrong = [f"{line!r}: {got}" for line, got in zip(lines, replay("text", lines=lines))
             if got != lowered_and_stripped(line)]
    report("lower and strip around sigmas", len(lines), wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", type=Path, required=True, help="the built tokenizer_replay")
    replay = Replay(parser.parse_args().replay.resolve())
    transformers_logging.set_verbosity_error()
    parameters = inspect.signature(SanaPipeline.__call__).parameters
    instruction = parameters["complex_human_instruction"].default
    [built_in] = replay("instruction")
    report("the instruction is diffusers' own", len(instruction),
           [] if built_in == instruction else [f"{built_in}"])
    sources = texts.python_sources(2_000_000)
    with tempfile.TemporaryDirectory() as scratch:
        for pieces in SIZES:
            folder = Path(scratch) / str(pieces)
            train(folder, pieces, texts.corpus(SIZES[pieces], instruction,
                                               random.Random(f"corpus/{pieces}")))
            strings = texts.strings(STRINGS, f"strings/{pieces}", sources)
            of_size = forms(folder)
            if pieces == min(SIZES):
                of_size.append(older_form(folder / "json, bos", folder / "json, older"))
            for form in of_size:
                label = f"{len(form.reference)} pieces,"
                compare_ids(replay, label, form, strings)
                compare_prompts(replay, label, form, instruction, strings)
                if form.name == "model, no bos":
                    compare_with_sentencepiece(replay, label, form, strings)
    compare_texts(replay)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
