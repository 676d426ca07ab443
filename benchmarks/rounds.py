"""What the measuring Python programs share: rounds on request (rounds.h is the same in C++)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable

Round = Callable[[int], "dict[str, float] | None"]


def serve(rounds: dict[str, Round], lines: Iterable[str] = sys.stdin) -> int:
    """Answers lines "WORD N" with what the word's round of N steps returns, one JSON line each.

    A round that returns None is not answered. Returns the program's exit code.
    """
    for line in lines:
        word, _, steps = line.strip().partition(" ")
        if word not in rounds or not steps.isdecimal() or int(steps) == 0:
            say = f'say "{next(iter(rounds))} N" with N >= 1'
            print(f'"{line.strip()}" is not a round ({say})', file=sys.stderr)
            return 2
        reply = rounds[word](int(steps))
        if reply is not None:
            print(json.dumps(reply), flush=True)
    return 0
