"""A checkpoint, read by h5py and by the description of its format alone.

Trestle's writer is judged by code that shares nothing with it: h5py opens every shard and each
dataset must hold what the manifest says (offset, shape, dtype, elements) and what the state held;
every byte of every file must be covered by a digest; the manifest's text must be the canonical one.
"""

import argparse
import ctypes
import ctypes.util
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

OPTIONS = argparse.Namespace()
BLOCK_BYTES = 4194304


class Hash128(ctypes.Structure):
    """XXH128_hash_t."""

    _fields_ = [("low64", ctypes.c_uint64), ("high64", ctypes.c_uint64)]


def load_xxhash() -> ctypes.CDLL:
    """The system's libxxhash, called directly."""
    library = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
    library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.XXH3_64bits.restype = ctypes.c_uint64
    library.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.XXH3_128bits.restype = Hash128
    return library


def raw_dtype(name: str) -> np.dtype:
    """The numpy type with the same bits (numpy has no bfloat16)."""
    return np.dtype(np.uint16 if name == "bfloat16" else name)


class H5py(unittest.TestCase):
    """One checkpoint a world size, each looked at from every side."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)

    def make(self, ranks: int) -> tuple[Path, dict]:
        """A checkpoint of that many ranks and its manifest."""
        folder = self.scratch / f"ranks-{ranks}"
        command = [OPTIONS.example_checkpoint, str(folder), str(ranks), str(40 + ranks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        path = Path(done.stdout.strip())
        return path, json.loads((path / "manifest.json").read_text(encoding="utf-8"))

    def test_every_tensor_is_what_the_manifest_says(self) -> None:
        for ranks in (1, 2, 3):
            path, manifest = self.make(ranks)
            names = {file["name"] for file in manifest["files"]}
            self.assertEqual(names, {p.name for p in path.glob("*.h5")})
            shards = {name: h5py.File(path / name, "r") for name in sorted(names)}
            datasets = {name: set() for name in names}
            for tensor, record in manifest["tensors"].items():
                with self.subTest(ranks=ranks, tensor=tensor):
                    rebuilt = self.rebuild(record, shards, path, datasets)
                    expected = path.parent / "expected" / (tensor.replace("/", "+") + ".bin")
                    self.assertEqual(rebuilt.tobytes(), expected.read_bytes())
            for name, shard in shards.items():
                found: set[str] = set()
                shard.visititems(
                    lambda at, node, found=found: found.add(at)
                    if isinstance(node, h5py.Dataset) else None)
                self.assertEqual(found, datasets[name], "datasets that the manifest does not list")
                shard.close()

    def rebuild(self, record: dict, shards: dict, path: Path, datasets: dict) -> np.ndarray:
        """The raw elements of a tensor from h5py, checked piece by piece against plain reads."""
        elements = int(np.prod(record["shape"], dtype=np.int64))
        rebuilt = np.zeros(elements, raw_dtype(record["dtype"]))
        for piece in record["pieces"]:
            dataset = shards[piece["file"]][piece["dataset"]]
            datasets[piece["file"]].add(piece["dataset"])
            count = piece["end"] - piece["begin"]
            whole = count == elements
            self.assertEqual(list(dataset.shape), record["shape"] if whole else [count])
            self.assertIsNone(dataset.chunks)
            self.assertIsNone(dataset.compression)
            self.assertEqual(dataset.id.get_offset() or 0, piece["offset"])
            with open(path / piece["file"], "rb") as file:
                file.seek(piece["offset"])
                raw = np.frombuffer(file.read(piece["bytes"]), rebuilt.dtype)
            self.assertEqual(raw.size, count)
            values = dataset[()]
            if record["dtype"] == "bfloat16":
                self.assertEqual(np.asarray(values).dtype, np.float32)
                widened = (raw.astype(np.uint32) << 16).view(np.float32)
                np.testing.assert_array_equal(np.ravel(values), widened)
            else:
                self.assertEqual(np.asarray(values).dtype, raw_dtype(record["dtype"]))
                self.assertEqual(np.ravel(values).tobytes(), raw.tobytes())
            rebuilt[piece["begin"]:piece["end"]] = raw
        return rebuilt

    def test_digests_cover_every_byte(self) -> None:
        library = load_xxhash()
        path, manifest = self.make(2)
        for record in manifest["files"]:
            content = (path / record["name"]).read_bytes()
            self.assertEqual(len(content), record["bytes"])
            self.assertEqual(record["block_bytes"], BLOCK_BYTES)
            blocks = [content[at:at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
            digests = [f"{library.XXH3_64bits(block, len(block)):016x}" for block in blocks]
            self.assertEqual(digests, record["xxh3_64"])

        text = (path / "manifest.json").read_text(encoding="utf-8")
        self.assertEqual(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
                         text)
        digest = manifest.pop("digest")
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"),
                               ensure_ascii=False).encode()
        hashed = library.XXH3_128bits(canonical, len(canonical))
        self.assertEqual(f"{hashed.high64:016x}{hashed.low64:016x}", digest)

    def test_numbers_and_texts(self) -> None:
        _, manifest = self.make(1)
        values = manifest["values"]
        self.assertEqual(values["trainer/step"], {"int64": 41 * 1_000_000_007})
        self.assertEqual(float(values["trainer/loss"]["float64"]), 1 / 43)
        self.assertEqual(values["trainer/note"], {"text": 'seed "41" é\n'})


def main() -> None:
    """Runs the tests on the program given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example-checkpoint", required=True, metavar="PROGRAM",
                        help="the built example_checkpoint")
    OPTIONS.example_checkpoint = parser.parse_args().example_checkpoint
    unittest.main(argv=sys.argv[:1])


if __name__ == "__main__":
    main()
