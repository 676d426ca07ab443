"""Texts for the tokenizer oracle, from seeds and from what every Python brings along: a corpus to
train tokenizers on, and strings that try them.
"""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from pathlib import Path

NEWLINES = ["\n" * n for n in range(1, 9)]
SPACE_MARK = "\u2581"
SPACE_MARKS = [SPACE_MARK * n for n in range(2, 9)]
TAGS = ["<table>", "<tr>", "<td>", "</td>", "<h1>", "<b>", "</b>", "<i>", "<br>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
USER_SYMBOLS = ["<mask>", *TURNS, *NEWLINES, *SPACE_MARKS, *TAGS]
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>"]

PROMPTS = [
    "A cat sleeping on a windowsill, oil painting",
    "ein Haus am See bei Sonnenuntergang, Aquarell",
    "a portrait of an old fisherman, 85mm, soft light, film grain, 4k",
    "une rue de Paris sous la pluie, r\u00e9verb\u00e8res, aquarelle d\u00e9lav\u00e9e",
    "\u5c71\u6c34\u753b, \u6c34\u58a8, \u7559\u767d",
    "isometric cutaway of a tiny bakery, studio lighting",
]


def python_sources(size: int) -> list[str]:
    """Lines of Python's own library (half of it is English) until `size` characters are reached."""
    lines: list[str] = []
    total = 0
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for line in file.read_text(encoding="utf-8", errors="ignore").splitlines():
            if not line.strip():
                continue
            lines.append(line)
            total += len(line)
            if total >= size:
                return lines
    return lines


def character_names(count: int, rng: random.Random) -> list[str]:
    names = []
    while len(names) < count:
        name = unicodedata.name(chr(rng.randrange(0x20, 0x3000)), "")
        if name:
            names.append(name.lower() if rng.random() < 0.5 else name.title())
    return names


def foreign_lines(count: int, rng: random.Random) -> list[str]:
    """Invented words in other scripts, from few characters, so that some become pieces."""
    alphabets = ["\u4e00\u4e8c\u4e09\u4eba\u5c71\u6c34\u65e5\u6708\u5927\u5c0f",
                 "\u0430\u0431\u0432\u0433\u0434\u0435\u043a\u043b\u043c\u043d\u043e",
                 "\u03b1\u03b2\u03b3\u03b4\u03b5\u03c3\u03c2\u03bf",
                 "\u00e4\u00f6\u00fc\u00dfaeinrst"]
    return [" ".join("".join(rng.choices(rng.choice(alphabets), k=rng.randint(1, 6)))
                     for _ in range(8)) for _ in range(count)]


def corpus(size: int, instruction: list[str], rng: random.Random) -> list[str]:
    lines = [*instruction, *PROMPTS]
    if size:
        lines += python_sources(size) + character_names(size // 400, rng)
        lines += foreign_lines(size // 2000, rng)
    return lines


def control_characters() -> list[str]:
    return [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x200B, 0xFEFF, 0xFFFD)]


# What a string is put together from. Every kind can meet every other.
def pools(words: list[str]) -> dict[str, list[str]]:
    return {
        "words": words,
        "spaced": [" " + word for word in words],
        "newlines": ["\n", "\n\n", "\n\n\n", "\r\n", "\n \n", "\n" * 11],
        "spaces": [" ", "  ", "   ", "    ", "\t", " \t "],
        "emoji": ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u2764\ufe0f",
                  "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd"],
        "cjk": ["\u5c71\u6c34", "\u4eba", "\u65e5\u672c\u8a9e", "\uac00\ub098\ub2e4",
                "\u3042\u3044", "\u3000", "\u3002"],
        "html": [*TAGS, "<p class=\"x\">", "</p>", "&nbsp;", "<table", "td>", "<b><i>"],
        "control": control_characters(),
        "accents": ["\u00e9", "e\u0301", "\u00df", "\u0130", "\u0131", "\u01c5",
                    "\u03a3", "\u1e9e"],
        "scripts": ["\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0928\u092e",
                    "\u0e2a\u0e27", "\u0430\u0431\u0432", "\u03b1\u03b2\u03b3"],
        "digits": ["0", "12", "2026", "3.14159", "1,000,000", "\u0664\u0662"],
        "repeats": [c * n for c in "aeo-=._#!" for n in (2, 3, 5, 9, 17)],
        "ends": ["\x00", "\uffff", "\U0010ffff", "\ue000", "\ud7ff"],
        # In the rest libsentencepiece has ids of its own.
        "specials": [*SPECIALS, *TURNS, "<mask>", "<bos", "eos>", "<0x0A>", "<unk><pad>"],
        "marks": [SPACE_MARK, SPACE_MARK * 2, SPACE_MARK * 3 + "a"],
        "long spaces": [" " * n for n in (5, 6, 7, 8, 9, 16, 33)],
    }


OWN_FORM = ("specials", "marks", "long spaces")


def is_everyday(text: str) -> bool:
    """Whether libsentencepiece and transformers have to cut it alike."""
    written_out = [*SPECIALS, *TURNS, "<mask>", SPACE_MARK, " " * 5]
    return not any(part in text for part in written_out)


def strings(count: int, seed: str, sources: list[str]) -> list[str]:
    rng = random.Random(seed)
    words = sorted({word for line in sources[:4000] for word in line.split()})
    pool = pools(rng.sample(words, min(len(words), 2000)))
    everyday = [name for name in pool if name not in OWN_FORM]
    result = ["", " ", "\n", *PROMPTS]
    while len(result) < count:
        kind = rng.random()
        if kind < 0.25:
            result.append(rng.choice(sources))
        elif kind < 0.35:
            result.append("".join(random_character(rng) for _ in range(rng.randint(1, 12))))
        else:
            names = everyday if kind < 0.75 else list(pool)
            names = rng.sample(names, rng.randint(1, 4))
            result.append("".join(rng.choice(pool[rng.choice(names)])
                                  for _ in range(rng.randint(1, 16))))
    return result


def random_character(rng: random.Random) -> str:
    while True:
        code = rng.randrange(rng.choice((0x80, 0x800, 0x10000, 0x110000)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)
