#!/usr/bin/env python3
"""Photographs as Trestle reads them and as Pillow does: at most one grey level apart.

Pillow makes the files: PNG, and JPEG with each chroma subsampling, baseline and progressive, grey,
of odd sizes, and in every EXIF orientation, which Pillow undoes with exif_transpose.

    python tests/formats/pillow_oracle.py --picture-to-png build/release/tests/picture_to_png
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import quickstart_photos as photos  # noqa: E402

ORIENTATION = 0x0112
LEVELS = 1


def make_files(folder: Path) -> list[Path]:
    """Pictures of three photographs, as many kinds as Pillow can write."""
    files = []

    def save(picture: Image.Image, name: str, **options: object) -> None:
        files.append(folder / name)
        picture.save(files[-1], **options)

    for name in ("astronaut", "chelsea", "china"):
        photo = photos.load(next(p for p in photos.PHOTOS if p.name == name))
        photo = photo.crop((0, 0, photo.width // 2 - 3, photo.height // 2))
        save(photo, f"{name}.png")
        save(photo.convert("L"), f"{name}_grey.jpg", quality=90)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            for progressive in (False, True):
                save(photo, f"{name}_{subsampling[::2]}_{'p' if progressive else 'b'}.jpg",
                     quality=92, subsampling=subsampling, progressive=progressive)
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            save(photo, f"{name}_turned_{orientation}.jpg", quality=75, exif=exif)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture-to-png", type=Path, required=True, help="the built helper")
    program = parser.parse_args().picture_to_png.resolve()
    failures, worst = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        files = make_files(Path(scratch))
        ours_file = Path(scratch) / "ours"
        for file in files:
            subprocess.run([program, file, ours_file], check=True)
            ours = np.asarray(Image.open(ours_file)).astype(int)
            with Image.open(file) as opened:
                theirs = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
            if ours.shape != theirs.shape:
                failures.append(f"{file.name}: {ours.shape}, by Pillow {theirs.shape}")
                continue
            worst = max(worst, int(np.abs(ours - theirs).max()))
            if np.abs(ours - theirs).max() > LEVELS:
                failures.append(f"{file.name}: {np.abs(ours - theirs).max()} levels apart")
        cmyk = Path(scratch) / "cmyk.jpg"
        Image.new("CMYK", (16, 16)).save(cmyk)
        refused = subprocess.run([program, cmyk, ours_file], capture_output=True, text=True)
        if refused.returncode != 3 or "CMYK" not in refused.stderr:
            failures.append(f"CMYK: exit code {refused.returncode}, said {refused.stderr!r}")
    print(f"{len(files)} files, at most {worst} levels apart")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
