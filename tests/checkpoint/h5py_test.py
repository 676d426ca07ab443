"""A checkpoint, read by h5py and by the description of its format alone.

Trestle's writer is judged by code that shares nothing with it: h5py opens every shard and each
dataset must hold what the manifest says (offset, shape, dtype, elements) and what the state held;
every byte of every file must be covered by a digest; the manifest's text must be the canonical one.
"""

import argparse
import contextlib
import ctypes
import ctypes.util
import io
import json
import re
import runpy
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

    def make(self, ranks: int, *options: str) -> tuple[Path, dict]:
        """A checkpoint of that many ranks and its manifest."""
        folder = self.scratch / "-".join(["ranks", str(ranks), *options])
        command = [OPTIONS.example_checkpoint, str(folder), str(ranks), str(40 + ranks), *options]
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

    def expected(self, path: Path, tensor: str, dtype: str) -> np.ndarray:
        """What the state held, as h5py shows it: bfloat16 widened to float32."""
        content = (path.parent / "expected" / (tensor.replace("/", "+") + ".bin")).read_bytes()
        raw = np.frombuffer(content, raw_dtype(dtype))
        return (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else raw

    def test_the_script_of_the_documentation_rebuilds_the_whole_state(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "checkpoint_format.md").read_text()
        scripts = [s for s in re.findall(r"```python\n(.*?)```", page, re.S) if "import h5py" in s]
        self.assertEqual(len(scripts), 1)
        script = self.scratch / "script.py"
        script.write_text(scripts[0])
        for ranks in (1, 3):
            for options in ((), ("index",)):
                path, manifest = self.make(ranks, *options)
                arguments, sys.argv = sys.argv, [str(script), str(path)]
                with contextlib.redirect_stdout(io.StringIO()):
                    made = runpy.run_path(str(script))
                sys.argv = arguments
                self.assertEqual(made["state"].keys(), manifest["tensors"].keys())
                for tensor, found in made["state"].items():
                    record = manifest["tensors"][tensor]
                    self.assertEqual(list(found.shape), record["shape"])
                    self.assertEqual(found.tobytes(),
                                     self.expected(path, tensor, record["dtype"]).tobytes(), tensor)
                self.assertEqual(made["values"]["trainer/step"], (40 + ranks) * 1_000_000_007)
                self.assertEqual(made["values"]["trainer/loss"], 1 / (42 + ranks))
                self.assertEqual(made["values"]["trainer/note"], f'seed "{40 + ranks}" é\n')

    def test_the_index_shows_every_tensor_whole(self) -> None:
        for ranks in (1, 2, 5):
            path, manifest = self.make(ranks, "index")
            moved = path.parent / "moved"
            path.rename(moved)  # names in it are relative
            with h5py.File(moved / "index.h5", "r") as index:
                names: set[str] = set()
                index.visititems(
                    lambda at, node, names=names: names.add(at)
                    if isinstance(node, h5py.Dataset) else None)
                self.assertEqual(names, manifest["tensors"].keys())
                for tensor, record in manifest["tensors"].items():
                    with self.subTest(ranks=ranks, tensor=tensor):
                        dataset = index[tensor]
                        self.assertEqual(list(dataset.shape), record["shape"])
                        self.assertEqual(dataset.is_virtual,
                                         bool(record["shape"]) and dataset.size > 0)
                        if dataset.is_virtual:
                            sources = {source.file_name for source in dataset.virtual_sources()}
                            self.assertEqual(sources, {p["file"] for p in record["pieces"]})
                        expected = self.expected(moved, tensor, record["dtype"])
                        found = np.asarray(dataset[()])
                        self.assertEqual(found.dtype, expected.dtype)
                        self.assertEqual(found.tobytes(), expected.tobytes())
                self.assertEqual(index.attrs["trainer/step"], (40 + ranks) * 1_000_000_007)
                self.assertEqual(index.attrs["trainer/loss"], 1 / (42 + ranks))
                self.assertEqual(index.attrs["trainer/note"], f'seed "{40 + ranks}" é\n')
            # HDF5 says nothing of a shard that is missing; floats must not look like numbers then.
            for shard in moved.glob("shard-*"):
                shard.unlink()
            with h5py.File(moved / "index.h5", "r") as index:
                for tensor in ("model/blocks.0.weight", "model/half", "model/bfloat16",
                               "optim/exp_avg/moments"):
                    self.assertTrue(np.isnan(index[tensor][()]).all(), tensor)

    def test_the_index_is_a_file_of_the_checkpoint(self) -> None:
        plain, indexed = self.make(2)[1], self.make(2, "index")[1]
        self.assertEqual([f["name"] for f in indexed["files"]],
                         [f["name"] for f in plain["files"]] + ["index.h5"])
        self.assertEqual(indexed["tensors"], plain["tensors"])
        again = self.scratch / "again"
        command = [OPTIONS.example_checkpoint, str(again), "2", "42", "index"]
        subprocess.run(command, check=True, capture_output=True)
        self.assertEqual(json.loads((again / "step-00000001" / "manifest.json").read_text()),
                         indexed, "equal states give equal bytes")

    def test_digests_cover_every_byte(self) -> None:
        library = load_xxhash()
        path, manifest = self.make(2, "index")
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
