"""tools/check_layers finds each kind of violation, and only those."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_layers"

CLEAN = {
    "base/error.h": '#pragma once\n#include <string>\n',
    "base/CMakeLists.txt": "trestle_room(base SOURCES error.cpp LINK fmt::fmt)\n"
                           "trestle_room(base_torch TORCH SOURCES a.cpp LINK trestle::base)\n",
    "configs/value.h": '#include "base/error.h"\n#include "configs/schema.h"\n',
    "configs/CMakeLists.txt": "trestle_room(configs LINK trestle::base)\n",
    "formats/png.cpp": '#include "base/error.h"\n',
    "formats/CMakeLists.txt": "trestle_room(formats LINK trestle::base trestle_hdf5)\n",
    "trainers/task.h": '#include "models/nn/layers.h"\n',
    "trainers/bridge/task.cpp": '#include "trainers/bridge/model.h"\n#include "trainers/task.h"\n',
    "trainers/bridge/CMakeLists.txt": "trestle_room(task_bridge LINK trestle::configs)\n",
    "trainers/other/task.cpp": '#include "processes/bridge.h"\n',
    "trainers/optim/adamw.cpp": '#include "trainers/optim/adamw.h"\n',
    "launch/main.cpp": '#include "trainers/optim/adamw.h"\n#include "configs/value.h"\n',
    "tests/bridge_test.cpp": '#include "trainers/bridge/model.h"\n#include "tests/helper.h"\n',
}


class CheckLayers(unittest.TestCase):
    def run_on(self, changes: dict[str, str]) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**CLEAN, **changes}.items():
                file = Path(folder) / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            done = subprocess.run([sys.executable, str(TOOL), "--root", folder],
                                  capture_output=True, text=True, check=False)
            return done.returncode, done.stdout + done.stderr

    def assert_found(self, changes: dict[str, str], place: str) -> None:
        status, output = self.run_on(changes)
        self.assertEqual(status, 1, output)
        self.assertIn(place, output)
        self.assertEqual(len(output.splitlines()), 1, output)

    def test_clean_tree(self) -> None:
        self.assertEqual(self.run_on({})[0], 0, self.run_on({})[1])

    def test_include_of_a_room_above(self) -> None:
        self.assert_found({"base/digest.h": '\n#include "configs/value.h"\n'}, "base/digest.h:2")
        self.assert_found({"models/nn/layers.cpp": '#include "data/loader.h"\n'},
                          "models/nn/layers.cpp:1")
        self.assert_found({"checkpoint/writer.cpp": '#  include "trainers/state.h"\n'},
                          "checkpoint/writer.cpp:1")
        self.assert_found({"trainers/state.cpp": '#include "launch/signals.h"\n'},
                          "trainers/state.cpp:1")

    def test_kernels_are_read_too(self) -> None:
        self.assert_found({"base/torch/draws.cu": '#include "dist/mesh.h"\n'},
                          "base/torch/draws.cu:1")

    def test_include_of_a_task(self) -> None:
        include = '#include "trainers/bridge/model.h"\n'
        for user in ("trainers/other/loss.cpp", "trainers/trainer.cpp", "trainers/optim/sgd.cpp",
                     "launch/train.cpp"):
            with self.subTest(user):
                self.assert_found({user: include}, f"{user}:1")

    def test_include_of_tests(self) -> None:
        self.assert_found({"data/loader.cpp": '#include "tests/helper.h"\n'}, "data/loader.cpp:1")

    def test_include_not_from_the_root(self) -> None:
        self.assert_found({"base/error.cpp": '#include "error.h"\n'}, "base/error.cpp:1")

    def test_link_of_a_room_above(self) -> None:
        self.assert_found({"formats/CMakeLists.txt":
                           "# trestle::dist\ntrestle_room(formats\n  LINK trestle::configs)\n"},
                          "formats/CMakeLists.txt:3")
        self.assert_found({"base/CMakeLists.txt": "trestle_room(base LINK trestle_configs)\n"},
                          "base/CMakeLists.txt:1")

    def test_link_of_a_task(self) -> None:
        self.assert_found({"trainers/other/CMakeLists.txt":
                           "trestle_room(task_other LINK trestle::task_bridge)\n"},
                          "trainers/other/CMakeLists.txt:1")


if __name__ == "__main__":
    unittest.main()
