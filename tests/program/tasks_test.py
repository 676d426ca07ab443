#!/usr/bin/env python3
"""The small tasks of tests/tasks/ in the real program: each trains on 1, 2 and 4 ranks as its
branches demand, resumes to the bit, passes dist.paranoid in every shard mode, and does what is
particular to it: objectives that alternate, a table with old and new rows, branches over ranks.

    python tests/program/tasks_test.py --trestle build/release/tests/trestle_small
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import trestle

TASKS = trestle.TESTS / "tasks"
FAST = ("log.tensorboard=false", "sample.pictures=2")


class Runs:
    """Runs of one task, each in a folder of its own; what went wrong is collected."""

    def __init__(self, program: Path, scratch: Path, task: str):
        self.program, self.scratch, self.task = program, scratch / task, task
        self.recipe = TASKS / task / "recipe.toml"
        self.failures: list[str] = []

    def expect(self, condition: bool, text: str) -> None:
        if not condition:
            self.failures.append(f"{self.task}: {text}")

    def command(self, name: str, sets: tuple[str, ...]) -> list[object]:
        flags = [a for s in (*FAST, *sets) for a in ("--set", s)]
        return ["train", self.recipe, "--run-dir", self.scratch / name, *flags]

    def train(self, name: str, ranks: int, *sets: str) -> Path:
        """A run that must end well; its folder."""
        trestle.checked(trestle.run(self.program, *self.command(name, sets), ranks=ranks))
        return self.scratch / name

    def expect_refused(self, what: str, text: str, *arguments: object, ranks: int = 0) -> None:
        result = trestle.run(self.program, *arguments, ranks=ranks)
        self.expect(result.returncode == 2 and text in result.stderr,
                    f"{what}: code {result.returncode} instead of 2 with \"{text}\": "
                    f"{result.stderr}")


def metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def state(run_dir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, the last one by default."""
    checkpoints = run_dir / "checkpoints"
    last = trestle.last_checkpoint(run_dir)
    found = last if step is None else trestle.Checkpoint(checkpoints / f"step-{step:08}")
    return found.tensors("")


def changed(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> set[str]:
    """Names of the tensors whose bits differ."""
    assert a.keys() == b.keys()
    return {n for n in a if a[n].tobytes() != b[n].tobytes()}


def check_what_all_do(runs: Runs, worlds: tuple[int, ...], bound: float) -> None:
    """Ranks change rounding only; a resumed run and a paranoid one change nothing."""
    weights = {}
    for ranks in worlds:
        weights[ranks] = state(runs.train(f"ranks-{ranks}", ranks))
        error = trestle.distance(weights[ranks], weights[worlds[0]])
        print(f"{runs.task}: {ranks} ranks against {worlds[0]}: {error:.1e}")
        runs.expect(error <= bound, f"{ranks} ranks differ from {worlds[0]} by {error:.1e}")

    ranks = worlds[-1]
    runs.train("resumed", ranks, "train.steps=3")
    resumed = state(runs.train("resumed", ranks))
    runs.expect(not changed(resumed, weights[ranks]), "a resumed run differs: "
                f"{sorted(changed(resumed, weights[ranks]))[:5]}")

    for shard in ("none", "optimizer", "gradients"):
        run_dir = runs.train(f"paranoid-{shard}", ranks, "dist.paranoid=true",
                             f"dist.shard={shard}", "dist.verify_every=1", "log.level=debug")
        log = (run_dir / "logs" / "rank-00000.log").read_text()
        runs.expect("every step is made a second time" in log, f"{shard}: not paranoid")
        runs.expect("hold the same parameters after step 2" in log, f"{shard}: not verified")
        error = trestle.distance(state(run_dir), weights[ranks])
        runs.expect(error <= bound, f"paranoid, {shard}: differs by {error:.1e}")
    runs.expect(not changed(state(runs.scratch / "paranoid-optimizer"), weights[ranks]),
                "a paranoid run differs")


def check_gan(runs: Runs) -> None:
    check_what_all_do(runs, (1, 2, 4), 1e-11)
    alternate = ("task.generator_every=2", "task.discriminator_first=1",
                 "task.discriminator_every=2", "checkpoint.every=1",
                 "checkpoint.keep_last=0")
    run_dir = runs.train("alternate", 2, *alternate)
    lines = metrics(run_dir)
    for step in range(1, len(lines)):
        names = changed(state(run_dir, step), state(run_dir, step + 1))
        who = "discriminator" if step % 2 else "generator"
        other = "generator" if step % 2 else "discriminator"
        runs.expect(any(n.startswith(f"model/{who}.") for n in names),
                    f"step {step} did not train the {who}")
        runs.expect(not any(f"/{other}." in n for n in names),
                    f"step {step} of the {who} changed {sorted(names)}")
        runs.expect(("loss/discriminator" in lines[step]) == (who == "discriminator"),
                    f"step {step}: {lines[step]}")

    for line in metrics(runs.scratch / "ranks-2"):
        runs.expect({"loss", "grad_norm", "loss/discriminator",
                     "grad_norm/discriminator"} <= line.keys(), f"both losses: {line}")
        runs.expect(line["loss"] != line["loss/discriminator"], f"one loss twice: {line}")
    # Metrics go over all samples, whoever had them.
    for one, four in zip(metrics(runs.scratch / "ranks-1"), metrics(runs.scratch / "ranks-4")):
        for name in ("right/discriminator", "surest/discriminator"):
            runs.expect(abs(one[name] - four[name]) < 1e-6, f"{name}: {one[name]}, {four[name]}")
        runs.expect(0 <= one["right/discriminator"] <= 1, f"a share: {one}")
    late = metrics(runs.train("late", 1, "task.discriminator_first=3"))
    runs.expect([("loss/discriminator" in line) for line in late] == [False] * 3 + [True] * 5,
                "discriminator_first = 3 is not heeded")

    learned = runs.train("learned", 1, "train.steps=600", "train.micro_batch=12")
    shift = state(learned)["model/generator.bias"]
    distance = float(np.hypot(*(shift - [2, -1])))
    print(f"tiny_gan: the generator's points lie {distance:.2f} from the data, at first 2.24")
    runs.expect(distance < 0.7, f"the generator has not found the data: {shift}")


OLD_TOKENS = 20
PIVOT = 6


def pivot_loss(table: np.ndarray, samples: int, prior_every: int, prior_weight: float) -> float:
    """The loss of new_tokens over its whole data set while the adapter is zero, in fp64."""
    misses: dict[bool, list[float]] = {True: [], False: []}
    tokens = table.shape[0] - OLD_TOKENS
    for i in range(samples):
        prior = i % prior_every == prior_every - 1
        second = (3 * i + 1) % OLD_TOKENS if prior else OLD_TOKENS + i % tokens
        text = table.astype(np.float64)[[i % OLD_TOKENS, second]].mean(0)
        wanted = np.sin(1.3 * i + np.arange(table.shape[1]))
        misses[prior].append(float(((text - wanted) ** 2).sum()))
    return float(np.mean(misses[False]) + prior_weight * np.mean(misses[True]))


def check_pivot(runs: Runs) -> None:
    check_what_all_do(runs, (1, 2, 4), 5e-5)
    run_dir = runs.train("steps", 2, "checkpoint.every=1", "checkpoint.keep_last=0",
                         "train.global_batch=24")
    first, last = state(run_dir, 1), state(run_dir)
    for name in ("model", "ema"):
        table = f"{name}/token_embedding.weight"
        runs.expect(first[table][:OLD_TOKENS].tobytes() == last[table][:OLD_TOKENS].tobytes(),
                    f"old rows of {table} moved")
        runs.expect(bool((first[table][OLD_TOKENS:] != last[table][OLD_TOKENS:]).all()),
                    f"new rows of {table} rest")
    for step in range(1, 10):
        names = changed(state(run_dir, step), state(run_dir, step + 1))
        trained = {n.split("/")[1] for n in names if n.startswith(("model/", "optim/", "ema/"))}
        wanted = "token_embedding.weight" if step < PIVOT else "adapter.weight"
        runs.expect(trained == {wanted}, f"step {step} trained {trained}")

    # Rates of zero, and each step the whole data set: the loss is known, and so is its division.
    for prior_every, weight, ranks in ((3, 0.5, 1), (3, 2.0, 4), (7, 1.0, 2), (13, 1.0, 4)):
        still = runs.train(f"still-{prior_every}-{weight}", ranks, "train.steps=2",
                           "train.global_batch=24", "optim.learning_rate=1e-30",
                           "optim.new_tokens.learning_rate=1e-30", "train.micro_batch=3",
                           f"task.prior_every={prior_every}", f"task.prior_weight={weight}")
        wanted = pivot_loss(state(still)["model/token_embedding.weight"], 24, prior_every, weight)
        for line in metrics(still):
            runs.expect(abs(line["loss"] / wanted - 1) < 1e-6,
                        f"every {prior_every}th a prior one: loss {line['loss']}, not {wanted}")


INPUTS = 3
PULL = 0.5


def train_two_lines(lines: list[np.ndarray], steps: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Both branches in one process: lines after `steps` steps of AdamW over all 16 samples, and
    the losses [step, branch]. A line is its weights and its bias."""
    samples = np.arange(16.0)
    axis = np.arange(2 * INPUTS)
    x = np.sin(samples[:, None] * (axis + 1) + axis)
    y = np.cos(0.5 * samples)
    features = [np.c_[x[:, b * INPUTS:(b + 1) * INPUTS], np.ones(16)] for b in (0, 1)]
    lines = [line.copy() for line in lines]
    moments = [[np.zeros(INPUTS + 1), np.zeros(INPUTS + 1)] for _ in lines]
    losses = np.zeros((steps, 2))
    for step in range(steps):
        maps = [f @ line for f, line in zip(features, lines)]
        for b in (0, 1):
            apart, miss = maps[b] - maps[1 - b], maps[b] - y
            losses[step, b] = (miss ** 2 + PULL * apart ** 2).mean()
            gradient = 2 * features[b].T @ (miss + PULL * apart) / 16
            gradient *= min(1.0, 0.5 / (np.linalg.norm(gradient) + 1e-6))
            mean, square = moments[b]
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient ** 2
            lines[b] *= 1 - 0.05 * 0.01
            corrected = mean / (1 - 0.9 ** (step + 1))
            root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            lines[b] -= 0.05 * corrected / root
    return lines, losses


def line_of(tensors: dict[str, np.ndarray], branch: int) -> np.ndarray:
    at = f"branches/{branch}/model/line."
    return np.r_[tensors[at + "weight"], tensors[at + "bias"]]


def check_branches(runs: Runs) -> None:
    check_what_all_do(runs, (2, 4), 1e-12)
    still = state(runs.train("still", 2, "train.steps=1", "optim.learning_rate=1e-30"))
    start = [line_of(still, branch) for branch in (0, 1)]
    runs.expect(not np.allclose(start[0], start[1]), "both branches begin with the same line")
    for ranks in (2, 4):
        run_dir = runs.scratch / f"ranks-{ranks}"
        lines, losses = train_two_lines(start, 8)
        tensors = state(run_dir)
        for branch in (0, 1):
            error = np.abs(line_of(tensors, branch) - lines[branch]).max()
            print(f"two_branches: {ranks} ranks, branch {branch} against both in one process: "
                  f"{error:.1e}")
            runs.expect(error < 1e-12, f"{ranks} ranks: branch {branch} is off by {error}")
        said = np.array([[line["loss"], line["loss/branch-1"]] for line in metrics(run_dir)])
        runs.expect(np.abs(said / losses - 1).max() < 1e-12, f"losses {said}, not {losses}")
        files = {t: {p["file"] for p in record["pieces"]} for t, record in
                 trestle.last_checkpoint(run_dir).manifest["tensors"].items()}
        of = [set().union(*(f for t, f in files.items() if t.startswith(f"branches/{b}/")))
              for b in (0, 1)]
        runs.expect(bool(of[0]) and bool(of[1]) and not of[0] & of[1],
                    f"branches share files: {of}")
    # What 4 ranks saved, 2 go on with, and the other way round.
    for first, then in ((4, 2), (2, 4)):
        runs.train(f"{first}-to-{then}", first, "train.steps=3")
        tensors = state(runs.train(f"{first}-to-{then}", then))
        error = trestle.distance(tensors, state(runs.scratch / "ranks-2"))
        runs.expect(error < 1e-12, f"{first} ranks, then {then}: {error:.1e}")


def check_refusals_of_branches(runs: Runs) -> None:
    validate = ["validate", runs.recipe]
    runs.expect_refused("validate for 1 rank", "Start 2 ranks", *validate)
    runs.expect_refused("validate for 3 ranks", "3 ranks do not divide", *validate, "--world", 3)
    good = trestle.checked(trestle.run(runs.program, *validate, "--world", 4))
    runs.expect("(branch 1 of 2)" in good.stdout and "= 2 ranks x 2 micro steps" in good.stdout,
                f"validate says {good.stdout}")
    for ranks in (1, 3):
        runs.expect_refused(f"train on {ranks}", "works in 2 branches",
                            *runs.command(f"refused-{ranks}", ()), ranks=ranks)
    odd = ("train.global_batch=9", "train.micro_batch=4")  # of 2 ranks one has 4, one 5
    sets = [a for s in odd for a in ("--set", s)]
    runs.expect_refused("a rank without samples", "without samples in the last one",
                        *validate, "--world", 4, *sets)
    pictures = trestle.run(runs.program, "sample", runs.scratch / "ranks-4", "--out",
                           runs.scratch / "both.png", ranks=2)
    runs.expect(pictures.returncode == 0 and (runs.scratch / "both.png").exists(),
                f"sample: {pictures.stderr}")


def check_faults_of_branches(runs: Runs) -> None:
    """What goes wrong in one branch is everybody's, with the rank of the run in its sentence."""
    codes, result = trestle.run_for_codes(
        runs.program, *runs.command("nan", ("train.on_nonfinite=stop",)), "--inject",
        "nan@rank3:step2", ranks=4)
    runs.expect(codes == [6] * 4 and "rank 3: step 2: the gradient of line." in result.stderr,
                f"nan: codes {codes}, {result.stderr}")
    skipped = trestle.run(runs.program, *runs.command("skip", ()), "--inject", "nan@rank3:step2",
                          ranks=4)
    runs.expect(skipped.returncode == 0 and "The step is skipped" in skipped.stderr,
                f"skip: code {skipped.returncode}, {skipped.stderr}")
    counts = trestle.last_checkpoint(runs.scratch / "skip").manifest["values"]
    for branch in (0, 1):
        runs.expect(counts[f"branches/{branch}/optim/count"] == {"int64": 7},
                    f"skip: branch {branch} made {counts} of 8 steps, not 7")

    codes, result = trestle.run_for_codes(
        runs.program, *runs.command("unusable", ("task.unusable=5",)), ranks=4)
    runs.expect(set(codes) == {3} and "sample 5 cannot be used in branch 1" in result.stderr,
                f"a loss that fails: codes {codes}, {result.stderr}")

    codes, result = trestle.run_for_codes(
        runs.program, *runs.command("hang", ("dist.step_timeout_s=3",)), "--inject",
        "hang@rank2:step3", ranks=4)
    verdict = json.loads((runs.scratch / "hang" / "verdict.json").read_text())
    print(f"two_branches: {verdict['sentence']}")
    runs.expect(set(codes) == {7} and verdict["rank"] == 2 and verdict["step"] == 3,
                f"hang: codes {codes}, {verdict}")
    flight = (runs.scratch / "hang" / "logs" / "flight-00000.jsonl").read_text()
    calls = [(o["channel_name"], o["name"]) for o in map(json.loads, flight.splitlines())]
    runs.expect(("exchange", "from_branch") in calls, "the flight ring has no exchange")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True,
                        help="the program built with the tasks of tests/tasks/")
    program = parser.parse_args().trestle.resolve()
    failures = []
    with tempfile.TemporaryDirectory() as name:
        checks = {"tiny_gan": (check_gan,), "new_tokens": (check_pivot,),
                  "two_branches": (check_branches, check_refusals_of_branches,
                                   check_faults_of_branches)}
        for task, of_task in checks.items():
            runs = Runs(program, Path(name), task)
            for check in of_task:
                check(runs)
            failures += runs.failures
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
