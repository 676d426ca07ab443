"""What happens in folders, as the kernel tells it (inotify): within microseconds, where looking
again and again would miss what takes a millisecond.

    with FolderEvents({folder: OPENED | READ}) as events:
        for name in events.names(seconds=5): ...
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path

READ, OPENED, MOVED_HERE, MADE, DELETED = 0x1, 0x20, 0x80, 0x100, 0x200
NONBLOCKING = os.O_NONBLOCK
HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name

libc = ctypes.CDLL(None, use_errno=True)


class FolderEvents:
    """Of the folders named, each with the kinds of events that count."""

    def __init__(self, kinds: dict[Path, int]) -> None:
        self.descriptor = libc.inotify_init1(NONBLOCKING)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        for folder, kind in kinds.items():
            if libc.inotify_add_watch(self.descriptor, os.fsencode(folder), kind) < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))

    def __enter__(self) -> FolderEvents:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def names(self, seconds: float) -> Iterator[str]:
        """Of the entries that something happens to; empty every 50 ms in which nothing does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not select.select([self.descriptor], [], [], 0.05)[0]:
                yield ""
                continue
            data = os.read(self.descriptor, 1 << 16)
            while data:
                length = HEADER.unpack_from(data)[3]
                yield os.fsdecode(data[HEADER.size:HEADER.size + length].rstrip(b"\0"))
                data = data[HEADER.size + length:]
