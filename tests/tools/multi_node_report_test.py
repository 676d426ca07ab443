"""benchmarks/multi_node: bound, ratios and goals from replies whose numbers are known."""

import importlib.util
import sys
import tempfile
import unittest
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(file: str):
    name = Path(file).stem
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / file)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look themselves up
    spec.loader.exec_module(loaded)
    return loaded


report, launchers = module("multi_node/report.py"), module("launchers.py")


def case(hosts: int, ranks: int, rate: str, speeds: tuple, reduce_scatter: float = 50) -> dict:
    """Steps of 200 ms beside a bound of max(40, reduce_scatter) + 10 + max(20, 60) ms."""

    def replies(speed: float) -> list[dict]:
        spread = (0.5 * speed, speed, speed, speed, 3 * speed)
        return [{"samples_per_s": s, "step_ms": 200, "sent_bytes_per_step": 8000, "loss": 1}
                for s in spread]

    own = {"forward_ms": 20, "backward_ms": 40, "optimizer_ms": 10,
           "reduce_scatter_ms": reduce_scatter, "all_gather_ms": 60}
    theirs = {"forward_ms": 30, "backward_ms": 50, "optimizer_ms": 20, "all_reduce_ms": 100}
    return {"hosts": hosts, "ranks": ranks, "rate": rate, "steps": 5, "parameters": 1000,
            "rounds": {"trestle": replies(speeds[0]), "ddp": replies(speeds[1])},
            "parts": {"trestle": [own] * 5, "ddp": [theirs] * 5}}


class Report(unittest.TestCase):
    def test_numbers_of_a_case(self) -> None:
        two = report.CaseNumbers(case(2, 2, "1gbit", (12, 10)))
        self.assertEqual(two.bound(), 50 + 10 + 60)
        self.assertAlmostEqual(two.over_bound()[0], 200 / 120)
        self.assertAlmostEqual(two.ratio(), (50 + 60) / (20 + 40 + 10))
        self.assertEqual(two.compute("ddp"), 100)
        self.assertAlmostEqual(two.speedup(), 1.2)
        self.assertEqual(two.sizes_per_host("ddp"), 8000 / 2 / 4000)
        one = report.CaseNumbers(case(1, 1, "none", (8, 10)))
        self.assertEqual(report.efficiency(two, one, "trestle"), "75 %")

    def test_goals(self) -> None:
        def judged(cores: int, *cases: dict) -> list[str]:
            rows = report.goals([report.CaseNumbers(each) for each in cases], cores, threads=1)
            return [row.rsplit("|", 2)[1].strip() for row in rows]

        # Alone; the step beside its bound and DDP at 1.6; N = 4 at 3.7, more ranks than cores.
        self.assertEqual(judged(2, case(1, 1, "none", (11, 10))), ["yes"])
        self.assertEqual(judged(2, case(1, 1, "none", (9, 10))), ["no"])
        self.assertEqual(judged(2, case(2, 2, "1gbit", (12, 10))), ["no", "yes"])
        self.assertEqual(judged(2, case(2, 2, "1gbit", (10.5, 10))), ["no", "no"])
        self.assertEqual(judged(2, case(2, 4, "200mbit", (14, 10), 200)), ["yes"])
        self.assertEqual(judged(2, case(2, 4, "200mbit", (12, 10), 200)), ["no"])
        self.assertEqual(judged(4, case(2, 4, "200mbit", (14, 10), 200)), ["yes", "yes"])

    def test_page_and_picture(self) -> None:
        result = {
            "command": "run", "launcher": "two hosts", "facts": {"processor": "P"}, "cores": 2,
            "workload": {"model": {"num_attention_heads": 2, "attention_head_dim": 8,
                                   "num_layers": 1}, "latent_height": 4, "latent_width": 4},
            "batch": 4, "threads": 1, "wire": "bf16", "set": ["dist.shard=none"],
            "bucket_cap_mb": None,
            "cases": [case(1, 1, "none", (8, 10)), case(2, 2, "1gbit", (12, 10))],
        }
        with tempfile.TemporaryDirectory() as folder:
            text = report.write(result, Path(folder) / "page.md")
            self.assertGreater((Path(folder) / "page.png").stat().st_size, 10_000)
        for words in ("| N=2, 2 hosts, 1gbit | 1.6 | 12.00 | 10.00 | 1.20 (1.20 to 1.20) |",
                      "dist.shard=none", "in bf16 on both sides", "| 120.0 | 200.0 | 1.67"):
            self.assertIn(words, text)


class Cases(unittest.TestCase):
    def test_cases(self) -> None:
        case = launchers.Case.parse("2x3@200mbit")
        self.assertEqual((case.hosts, case.ranks, case.rate), (2, 6, "200mbit"))
        self.assertEqual(str(case), "2x3@200mbit")
        self.assertEqual(str(launchers.Case.parse("1x4")), "1x4")
        for wrong in ("2", "0x1", "1x0", "2x1@", "x"):
            with self.assertRaises(launchers.argparse.ArgumentTypeError):
                launchers.Case.parse(wrong)


if __name__ == "__main__":
    unittest.main()
