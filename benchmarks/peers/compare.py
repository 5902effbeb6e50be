"""Ours, RePlay and RecTools one after another: `python -m benchmarks.peers.compare --data FOLDER`.

FOLDER holds Beauty.user_sequence.txt.zst (docs/data_sets.md). Each library trains and predicts in its own environment
(README.md beside this file), on the same files, for the same number of epochs; every figure and the ratios with their
goals go to benchmarks/results/peers.jsonl, which `make figures` renders. Nothing else may run meanwhile: about 20
minutes on two cores. With --to-best each library trains to its own best validation instead (40 epochs at most, patience
5), once for each of --dropouts, and the accuracy of the best of these by its own validation is recorded: with
--libraries ours replay about 20 minutes for each dropout, RecTools alone over an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import prepare
from benchmarks.record import record

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers.jsonl"

TRAINING_OVER_RECTOOLS = 40
TRAINING_OVER_REPLAY = 8
PREDICTION_OVER_RECTOOLS = 5
_TO_BEST = ("--epochs", "40", "--patience", "5")


@dataclass(frozen=True)
class Run:
    """One library in one mode; ``environment`` None = the interpreter of this process."""

    label: str
    module: str
    environment: str | None
    arguments: tuple[str, ...] = ()


OURS = Run("ours", "precise_sasrec", None)
REPLAY = Run("RePlay, negatives shared in the batch", "replay_sasrec", "replay")
REPLAY_BUCKETED = Run("RePlay, shared negatives and bucketed rows", "replay_sasrec", "replay", ("--bucket-rows", "32"))
RECTOOLS = Run("RecTools", "rectools_sasrec", "rectools")
RUNS = {"ours": [OURS], "replay": [REPLAY, REPLAY_BUCKETED], "rectools": [RECTOOLS]}

Results = Mapping[Run, Mapping[str, Any]]
Figure = tuple[str, float, str, str | None, bool | None]  # name, value, unit, goal, whether it is met


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of DOMAIN.user_sequence.txt.zst")
    parser.add_argument("--domain", default="Beauty")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--to-best", action="store_true", help="train each library to its best validation")
    parser.add_argument("--dropouts", nargs="+", type=float, default=[0.2], help="with --to-best: each is tried")
    parser.add_argument("--libraries", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, help="steps an epoch at most, for trying out; nothing is recorded")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "peers", help="of the other libraries")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "peers", help="folder for files in between")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    folder = arguments.work / arguments.domain.lower()
    prepare.main([str(arguments.data / f"{arguments.domain}.user_sequence.txt.zst"), str(folder)])
    # The mode that trains fastest, the last of each library; the figures name it.
    modes = slice(-1, None) if arguments.to_best else slice(None)
    runs = [run for library in arguments.libraries for run in RUNS[library][modes]]
    results = {run: best_of(run, folder, arguments) for run in runs}
    figures = accuracy(results) if arguments.to_best else [*speeds(results), *ratios(results)]
    for name, value, unit, goal, _ in figures:
        print(f"{name}: {value:,.4g} {unit}" + (f" (goal: {goal})" if goal else ""))
    if not arguments.max_steps:
        _record(figures, next(iter(results.values()))["sizes"], arguments)


def best_of(run: Run, data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a library measured at the dropout of its best validation; without --to-best at the first one."""
    dropouts = arguments.dropouts if arguments.to_best else arguments.dropouts[:1]
    tried = [measure(run, data, arguments, dropout) for dropout in dropouts]
    return max(tried, key=best_validation) if len(tried) > 1 else tried[0]


def best_validation(result: Mapping[str, Any]) -> float:
    """NDCG of the epoch kept, at the cut by which the library chose it."""
    epoch = result["training"]["epochs"][result["training"]["best_epoch"] - 1]
    return max(value for name, value in epoch["validation"].items() if name.startswith("ndcg"))


def measure(run: Run, data: Path, arguments: argparse.Namespace, dropout: float) -> dict[str, Any]:
    """Run one library in a process of its own; what it measured."""
    python = arguments.environments / run.environment / "bin" / "python" if run.environment else Path(sys.executable)
    out = data / f"{'-'.join([run.module, *run.arguments]).replace('--', '')}.json"
    command = [str(python), "-m", f"benchmarks.peers.{run.module}", "--data", str(data), "--out", str(out)]
    command += _TO_BEST if arguments.to_best else ("--epochs", str(arguments.epochs))
    command += ["--seed", str(arguments.seed), "--threads", str(arguments.threads), *run.arguments]
    command += ["--dropout", str(dropout)]
    command += ["--max-steps", str(arguments.max_steps)] if arguments.max_steps else []
    print(f"{run.label}:", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def speeds(results: Results) -> list[Figure]:
    """What each library did, without a verdict."""
    figures: list[Figure] = []
    for run, result in results.items():
        speed = result["training"]["sequences_per_second"] or 0.0
        figures += [
            (f"training: {run.label}", speed, "sequences/s", None, None),
            (f"prediction: {run.label}", result["prediction"]["users_per_second"], "users/s", None, None),
            (f"Recall@10 after equal epochs: {run.label}", result["test"]["recall@10"], "", None, None),
            (f"peak memory: {run.label}", result["peak_memory_mib"], "MiB", None, None),
        ]
    return figures


def ratios(results: Results) -> list[Figure]:
    """Ours over theirs, with the goals; nothing for a library that did not run."""
    if OURS not in results:
        return []
    others = [run for run in results if run is not OURS]
    goals = {RECTOOLS: TRAINING_OVER_RECTOOLS, REPLAY: TRAINING_OVER_REPLAY}
    figures = [
        _ratio(f"training: ours over {run.label}", results, run, ("training", "sequences_per_second"), goals.get(run))
        for run in others
    ]
    goals = {RECTOOLS: PREDICTION_OVER_RECTOOLS}
    figures += [
        _ratio(f"prediction: ours over {run.label}", results, run, ("prediction", "users_per_second"), goals.get(run))
        for run in others
    ]
    figures += [
        _ratio(f"Recall@10 after equal epochs: ours over {run.label}", results, run, ("test", "recall@10"), 1)
        for run in others
    ]
    return figures


def accuracy(results: Results) -> list[Figure]:
    """Test figures of the epoch with the best validation, how many epochs that took, and ours over theirs."""
    figures: list[Figure] = []
    for run, result in results.items():
        tested, label = result["test"], f"{run.label}, at its best validation"
        best = result["training"]["best_epoch"]
        figures += [(f"{name}: {label}", value, "", None, None) for name, value in tested.items()]
        figures.append((f"epoch kept: {label}", best, f"of {len(result['training']['epochs'])}", None, None))
        figures.append((f"dropout kept: {label}", result["settings"]["dropout"], "", None, None))
    name, path = "Recall@10, each at its best validation: ours over", ("test", "recall@10")
    others = [run for run in results if OURS in results and run is not OURS]
    return figures + [_ratio(f"{name} {run.label}", results, run, path, 1) for run in others]


def _ratio(name: str, results: Results, other: Run, path: tuple[str, str], goal: int | None) -> Figure:
    ours, theirs = (results[run][path[0]][path[1]] or 0.0 for run in (OURS, other))
    ratio = ours / theirs if theirs else 0.0
    return name, ratio, "x", None if goal is None else f"at least {goal} x", None if goal is None else ratio >= goal


def _record(figures: Sequence[Figure], sizes: Mapping[str, int], arguments: argparse.Namespace) -> None:
    data = f"Amazon {arguments.domain}, {sizes['users']:,} users, {sizes['items']:,} items"
    how = f"--epochs {arguments.epochs}"
    if arguments.to_best:
        how = f"--to-best --dropouts {' '.join(map(str, arguments.dropouts))}"
    libraries = "" if len(arguments.libraries) == len(RUNS) else f" --libraries {' '.join(arguments.libraries)}"
    command = f"python -m benchmarks.peers.compare --data <folder> --domain {arguments.domain} {how}{libraries}"
    command += f" --threads {arguments.threads}"
    for name, value, unit, goal, meets in figures:
        record(arguments.results, name, value, unit, goal, meets, data, arguments.seed, command)


if __name__ == "__main__":
    main()
