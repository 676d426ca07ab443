"""tools/make_quickstart_data: the split, the bytes, the errors, and what it does to folders.

Run: .venv/bin/python -m unittest tests/tools/quickstart_data_test.py
"""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import quickstart_photos as photos  # noqa: E402
from ink_and_wash import ink_and_wash  # noqa: E402

loader = SourceFileLoader("make_quickstart_data", str(TOOLS / "make_quickstart_data"))
tool = module_from_spec(spec_from_loader(loader.name, loader))
loader.exec_module(tool)

# tool.embed_prompt("dahlia in ink"), first three values.
KNOWN_DRAW = [0.6463432, -1.0102558, 0.1894482]
TINY = ("--crops", "24", "--heldout", "8", "--size", "16")


def run(out: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and everything said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = tool.main(["--out", str(out), *arguments])
    return code, said.getvalue()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def read_pairs(folder: Path, listing: str) -> list[dict]:
    return [json.loads(line) for line in (folder / listing).read_text().splitlines()]


def read_pictures(folder: Path, pairs: list[dict], key: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / pair[key])) for pair in pairs])


class Split(unittest.TestCase):
    def test_the_boxes_share_no_pixel_and_cover_the_photograph(self):
        for photo in photos.PHOTOS:
            width, height = size = photos.load(photo).size
            owners = np.zeros((height, width), int)
            train, heldout = photos.boxes(size, photo.heldout_side)
            for left, top, right, bottom in (train, heldout):
                owners[top:bottom, left:right] += 1
            self.assertTrue((owners == 1).all(), photo.name)
            left, top, right, bottom = heldout
            share = (right - left) * (bottom - top) / (width * height)
            self.assertTrue(0.2 <= share <= 0.25, f"{photo.name} holds out {share}")

    def test_repainting_one_part_leaves_the_other_part_as_it_was(self):
        # Goes through the scaling of large photographs, where a resampling filter could leak.
        for photo in photos.PHOTOS:
            picture = photos.load(photo)
            before = photos.split(picture, photo.heldout_side)
            for painted, box in enumerate(photos.boxes(picture.size, photo.heldout_side)):
                changed = picture.copy()
                changed.paste((255, 0, 255), box)
                after = photos.split(changed, photo.heldout_side)
                other = 1 - painted
                self.assertEqual(before[other].tobytes(), after[other].tobytes(), photo.name)
                self.assertNotEqual(before[painted].tobytes(), after[painted].tobytes())

    def test_no_photograph_is_listed_twice(self):
        files = [photo.file.replace("_right", "_left") for photo in photos.PHOTOS]
        self.assertEqual(len(files), len(set(files)))


class Contents(unittest.TestCase):
    """One folder of full-size crops, made once for all of these."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = Path(cls.scratch.name) / "pairs"
        code, said = run(cls.folder, "--crops", "130", "--heldout", "39")
        assert code == 0, said
        cls.about = json.loads((cls.folder / "about.json").read_text())
        cls.train = read_pairs(cls.folder, "pairs.jsonl")
        cls.heldout = read_pairs(cls.folder, "heldout.jsonl")

    def test_the_listings_name_pictures_that_are_there(self):
        self.assertEqual((len(self.train), len(self.heldout)), (130, 39))
        named = set()
        for pair in self.train + self.heldout:
            self.assertEqual(set(pair), {"source", "target", "prompt"})
            for key in ("source", "target"):
                with Image.open(self.folder / pair[key]) as picture:
                    self.assertEqual((picture.size, picture.mode), ((64, 64), "RGB"))
                named.add(pair[key])
        there = {name for name in bytes_of(self.folder)
                 if name.startswith(("train/", "heldout/"))}
        self.assertEqual(named, there)

    def test_every_prompt_has_an_embedding_of_its_own_length(self):
        embeddings = load_file(self.folder / "prompts.safetensors")
        self.assertLessEqual({pair["prompt"] for pair in self.train + self.heldout},
                             set(embeddings))
        self.assertEqual(len(embeddings), self.about["counts"]["prompts"])
        for prompt, embedding in embeddings.items():
            self.assertEqual(embedding.dtype, np.float32)
            self.assertEqual(embedding.shape, (len(prompt.split()), 64))
            self.assertTrue(3 <= len(embedding) <= 8, prompt)
        self.assertGreaterEqual(len({len(embedding) for embedding in embeddings.values()}), 5)
        numbers = np.concatenate(list(embeddings.values())).ravel()
        self.assertEqual(len(np.unique(numbers)), len(numbers))  # no two draws are shared
        self.assertLess(abs(numbers.mean()), 0.05)
        self.assertLess(abs(numbers.std() - 1.0), 0.05)

    def test_an_embedding_depends_on_the_prompt_alone(self):
        # Known values, so that a change of generator cannot pass unseen.
        np.testing.assert_allclose(tool.embed_prompt("dahlia in ink")[0, :3], KNOWN_DRAW,
                                   rtol=1e-6)

    def test_a_target_is_a_function_of_its_finished_source(self):
        for pair in self.train[:26] + self.heldout:
            source, target = (read_pictures(self.folder, [pair], key)[0]
                              for key in ("source", "target"))
            np.testing.assert_array_equal(ink_and_wash(source), target)

    def test_the_errors_are_those_of_an_independent_fit(self):
        def rows(pairs, key):
            return read_pictures(self.folder, pairs, key).reshape(-1, 3) / 127.5 - 1.0

        x, y = rows(self.train, "source"), rows(self.train, "target")
        affine = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
        np.testing.assert_allclose(np.array(self.about["affine_map"]), affine.T, atol=2e-6)
        x, y = rows(self.heldout, "source"), rows(self.heldout, "target")
        source_error = np.mean((x - y) ** 2)
        affine_error = np.mean((np.c_[x, np.ones(len(x))] @ affine - y) ** 2)
        self.assertAlmostEqual(self.about["source_error"], source_error, delta=2e-6)
        self.assertAlmostEqual(self.about["affine_error"], affine_error, delta=2e-5)

    def test_no_colour_map_comes_near_the_targets(self):
        # docs/quickstart_data.md: more than 0.4 of the source's error stays after the best map.
        self.assertGreater(self.about["source_error"], 0.15)
        self.assertGreater(self.about["affine_error"], 0.4 * self.about["source_error"])


class Folder(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.parent = Path(scratch.name)
        self.out = self.parent / "pairs"

    def make(self, *arguments: str) -> dict[str, bytes]:
        code, said = run(self.out, *arguments)
        self.assertEqual(code, 0, said)
        return bytes_of(self.out)

    def assert_only(self, *names: str):
        self.assertEqual(sorted(path.name for path in self.parent.iterdir()), sorted(names))

    def test_the_same_parameters_give_the_same_bytes(self):
        first = self.make(*TINY)
        self.assertEqual(first, self.make(*TINY, "--force"))
        other = self.make(*TINY, "--seed", "7", "--force")
        self.assertNotEqual(first["train/000000_source.png"], other["train/000000_source.png"])
        self.assert_only("pairs")

    def test_a_crop_does_not_depend_on_how_many_are_made(self):
        many = self.make(*TINY)
        few = self.make("--crops", "5", "--heldout", "2", "--size", "16", "--force")
        for name in few:
            if name.endswith(".png") and "/" in name:
                self.assertEqual(few[name], many[name], name)

    def test_a_whole_folder_is_left_alone(self):
        self.make(*TINY)
        written = (self.out / "about.json").stat().st_mtime_ns
        code, said = run(self.out, *TINY)
        self.assertEqual(code, 0)
        self.assertIn("is complete", said)
        self.assertEqual((self.out / "about.json").stat().st_mtime_ns, written)

    def test_a_folder_that_lost_a_picture_is_written_again(self):
        before = self.make(*TINY)
        (self.out / "heldout/000003_target.png").unlink()
        self.assertEqual(before, self.make(*TINY))

    def test_other_parameters_need_force(self):
        before = self.make(*TINY)
        code, said = run(self.out, *TINY, "--seed", "4")
        self.assertEqual(code, 2)
        self.assertIn("holds other data (different: seed)", said)
        self.assertEqual(before, bytes_of(self.out))
        self.make(*TINY, "--seed", "4", "--force")

    def test_a_foreign_folder_is_never_replaced(self):
        self.out.mkdir()
        (self.out / "about.json").write_text('{"thesis": "the only copy"}')
        before = bytes_of(self.out)
        code, said = run(self.out, *TINY, "--force")
        self.assertEqual(code, 2)
        self.assertIn("not a folder of this tool", said)
        self.assertEqual(before, bytes_of(self.out))

    def test_a_failure_half_way_leaves_nothing(self):
        full = OSError(28, "No space left on device")
        with mock.patch.object(tool, "save_preview", side_effect=full):
            code, said = run(self.out, *TINY)
        self.assertEqual(code, 4)
        self.assertIn("No space left on device", said)
        self.assert_only()

    def test_a_failure_half_way_leaves_the_old_folder(self):
        before = self.make(*TINY)
        with mock.patch.object(tool, "save_preview", side_effect=KeyboardInterrupt):
            code, _ = run(self.out, *TINY, "--force")
        self.assertEqual(code, 130)
        self.assertEqual(before, bytes_of(self.out))
        self.assert_only("pairs")

    def test_a_missing_photograph_is_named(self):
        gone = photos.Photo("gone", "skimage", "data/gone.png", "left", ("a b c",))
        with mock.patch.object(photos, "PHOTOS", (gone,)):
            code, said = run(self.out, *TINY)
        self.assertEqual(code, 3)
        self.assertIn("skimage/data/gone.png is not there", said)
        self.assert_only()

    def test_wrong_numbers_are_refused(self):
        for arguments in (("--crops", "0"), ("--size", "7"), ("--heldout", "many")):
            with self.assertRaises(SystemExit) as refused:
                run(self.out, *arguments)
            self.assertEqual(refused.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
