"""A small tokenizer of Gemma's kind, trained by SentencePiece."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sentencepiece

import tokenizer_texts as texts


def train(folder: Path, pieces: int, lines: Iterable[str]) -> None:
    """Makes the folder, with a tokenizer.model of at most so many pieces."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=pieces,
        model_type="bpe", hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False,
        normalization_rule_name="identity", split_digits=True, num_threads=2,
        user_defined_symbols=texts.USER_SYMBOLS, minloglevel=2)  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
