"""Render benchmarks/results/{experiments,ranking}/*.json to docs/results.md: `make results`. Nothing is typed by hand.

Each file is what `jobs/run_experiment.py` wrote for one experiment, or `benchmarks.table_ix` for one warehouse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import ranking_page
from benchmarks.recall_tables import recall_lines
from precise_core.evaluation.names import ORACLE, with_history

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "experiments"
RANKING = ROOT / "benchmarks" / "results" / "ranking"
TARGET = ROOT / "docs" / "results.md"

Experiment = Mapping[str, Any]
Key = tuple[str, str, int]  # item group, metric, k
Differences = Mapping[tuple[str, Key], Mapping[str, Any]]

FIELDS = ("name", "title", "data", "date", "machine", "code_version", "seeds", "reference", "split", "trained", "tasks")
SIGNIFICANT = 0.05

_MAIN: tuple[Key, ...] = (("all", "recall", 10), ("all", "recall", 50), ("all", "ndcg", 10), ("all", "ndcg", 50))
_GROUPS = ("hot", "cold", "seen", "rare", "unseen")
_OF_GROUPS: tuple[Key, ...] = tuple((group, "recall", k) for group in _GROUPS for k in (10, 50))
_METRICS = {"recall": "Recall", "ndcg": "NDCG"}
_HEADER = """# Results

Generated from `benchmarks/results/experiments/*.json` and `benchmarks/results/ranking/*.json` by `make results`; do not
edit. Each section is one experiment: the command writes the file and then this page.

How to read it: every system ranks the whole catalog for the same users; [evaluation](evaluation.md) says what a figure
means. Several seeds: mean ± standard deviation. ▲ = above the reference system, ▼ = below it, by a paired bootstrap
over users with p < .05; without a sign the difference may be chance. Groups limit the truth to items that are hot (the
most frequent), cold (all others), seen (with training events), rare (1 to 4 of them) or unseen (none). The user filter
`all` filters nothing, `new` leaves out what the user had before, `repeat` ranks nothing else.
"""
_GLANCE = """The reference system, the trained system of best NDCG@50 beside it, and the best simple reference; nothing
is filtered. Which is best was read from these figures, so look at the p-values in its section. "+ history" = blended
with the user's own purchases. Systems that learnt the validation items too are left out."""
_NOTHING = "No experiment has been run yet: `make experiment` lists the names.\n"


def read_experiment(file: Path, fields: Sequence[str] = FIELDS) -> Experiment:
    """One experiment's file.

    Raises:
        ValueError: It is not a JSON object with the fields of an experiment.
    """
    try:
        experiment = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}: not JSON: {error}") from error
    if not isinstance(experiment, dict) or (missing := sorted(set(fields) - set(experiment))):
        found = f"lacks {missing}" if isinstance(experiment, dict) else f"is a {type(experiment).__name__}"
        raise ValueError(f"{file.name}: {found}; expected what jobs/run_experiment.py or benchmarks.table_ix writes")
    return experiment


def read_experiments(folder: Path = RESULTS) -> dict[str, Experiment]:
    """All experiments of a folder by the name of their file."""
    return {file.stem: read_experiment(file) for file in sorted(folder.glob("*.json"))}


def read_rankings(folder: Path | None = None) -> list[Experiment]:
    """All files of `benchmarks.table_ix` in a folder."""
    files = sorted((folder or RANKING).glob("*.json"))
    return [read_experiment(file, ranking_page.FIELDS) for file in files]


def render(experiments: Mapping[str, Experiment], rankings: Sequence[Experiment] = ()) -> str:
    """One Markdown page: a section per experiment, then Table IX of each warehouse."""
    sections = [_section(name, experiment) for name, experiment in experiments.items()]
    sections += [ranking_page.section(found) for found in rankings]
    return "\n".join([_HEADER, *_at_a_glance(experiments), *(sections or [_NOTHING])])


def _at_a_glance(experiments: Mapping[str, Experiment]) -> list[str]:
    """For every experiment and task: the reference system, the best of the others, the best simple reference."""
    rows: list[list[str]] = []
    for name, experiment in experiments.items():
        left_out = _learns_validation(name)
        lines = (
            _Question(experiment, task, "all").at_a_glance(_title(experiment), left_out) for task in experiment["tasks"]
        )
        rows += filter(None, lines)
    heads = ["experiment", "task", "reference system", "best other", "Recall@10", "NDCG@50", "best simple, NDCG@50"]
    return ["## At a glance", "", _GLANCE, "", *_table(heads, rows, names=4), ""] if rows else []


def _title(experiment: Experiment) -> str:
    return str(experiment["title"] or experiment["name"])


def _learns_validation(name: str) -> set[str]:
    """Systems that are trained on more than the others."""
    systems = _configuration(name).get("experiment", {}).get("systems", {})
    key = "train_includes_validation"
    return {system for system, of in systems.items() if of.get("changes", {}).get("windows", {}).get(key)}


def _configuration(name: str, root: Path = ROOT) -> Mapping[str, Any]:
    """The experiment's file; empty where there is none."""
    files = [root / "conf" / part / f"{name}.yaml" for part in ("experiments", "")]
    file = next(filter(Path.is_file, files), None)
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))) if file else {}


def command(name: str, root: Path = ROOT) -> str:
    """What repeats an experiment; with a folder where its source reads one."""
    source = _configuration(name, root).get("source", {})
    return f"make experiment NAME={name}" + (" DATA=<folder>" if "data" in source else "")


def main() -> None:
    experiments = read_experiments()
    rankings = read_rankings()
    TARGET.write_text(render(experiments, rankings), encoding="utf-8")
    print(f"wrote {TARGET.name}: {len(experiments)} experiments, {len(rankings)} rankings")


def _section(name: str, experiment: Experiment) -> str:
    seeds = ", ".join(str(seed) for seed in experiment["seeds"])
    facts = [
        f"- command: `{command(name)}`",
        f"- data: {experiment['data']}",
        f"- split: `{experiment['split']}`; seeds: {seeds}; reference system: {experiment['reference']}",
        f"- {experiment['date']}, {experiment['machine']}, code {experiment['code_version']}",
        *_not_asked(experiment),
    ]
    parts = [f"## {_title(experiment)}", "", *facts, ""]
    for task in experiment["tasks"]:
        for user_filter in _in_order(figure["user_filter"] for figure in experiment["tasks"][task]["figures"]):
            parts += _Question(experiment, task, user_filter).lines()
    return "\n".join([*parts, *recall_lines(experiment), *_training(experiment["trained"])])


def _not_asked(experiment: Experiment) -> list[str]:
    """Which systems have no figures for a task, and why."""
    systems: dict[tuple[str, str], list[str]] = {}
    for note in experiment.get("not_asked", ()):
        systems.setdefault((note["task"], note["why"]), []).append(note["system"])
    return [f"- task `{task}` is not asked of {', '.join(names)}: {why}" for (task, why), names in systems.items()]


class _Question:
    """The figures of one task under one user filter."""

    def __init__(self, experiment: Experiment, task: str, user_filter: str) -> None:
        answer = experiment["tasks"][task]
        self.task, self.user_filter, self.reference = task, user_filter, experiment["reference"]
        self.figures = _by_key(answer["figures"], user_filter)
        differences: dict[str, list[Mapping[str, Any]]] = {self.reference: []}
        for row in answer["differences"]:
            differences.setdefault(row["reference"], []).append(row)
        self.to = {reference: _by_key(rows, user_filter) for reference, rows in differences.items()}
        self.differences = self.to[self.reference]
        asked = _in_order(system for system, _ in self.figures)
        trained = [name for system in experiment["trained"] for name in (system, with_history(system))]
        self.models = [system for system in trained if system in asked]
        self.systems = [*self.models, *(system for system in asked if system not in self.models)]

    def lines(self) -> list[str]:
        users = self._users(_MAIN[0])
        head = f"Task `{self.task}`, user filter `{self.user_filter}`{f', {users} users' if users else ''}:"
        parts = [head, "", *self._table(_MAIN, [_label(key) for key in _MAIN], self.systems, self._value), ""]
        groups = [key for key in _OF_GROUPS if any((system, key) in self.figures for system in self.systems)]
        if all(group != "unseen" for group, *_ in groups):  # then every item is seen
            groups = [key for key in groups if key[0] != "seen"]
        if groups:
            heads = [f"{key[0]} {_label(key)}{self._in_brackets(key)}" for key in groups]
            parts += ["By group of items (in brackets: users with such an item):", ""]
            parts += [*self._table(groups, heads, self.systems, self._value), ""]
        for reference, found in self.to.items():
            parts += self._differences(reference, found)
        return parts

    def _differences(self, reference: str, found: Differences) -> list[str]:
        """The table of the differences to one system; nothing where it was not asked."""
        compared = [system for system in self.systems if any((system, key) in found for key in _MAIN)]
        if not compared:
            return []
        cell = partial(self._difference, reference, found)
        table = self._table(_MAIN, [_label(key) for key in _MAIN], compared, cell)
        return [f"Difference to {reference}, its 95 % interval, and p:", "", *table, ""]

    def at_a_glance(self, title: str, left_out: Set[str]) -> list[str]:
        """One line of the first table; empty without two systems to compare."""
        recall, ndcg = ("all", "recall", 10), ("all", "ndcg", 50)
        measured = [name for name in self.systems if name not in left_out and _is_number(self._mean(name, ndcg))]
        others = [name for name in measured if name in self.models and name != self.reference]
        simple = [name for name in measured if name not in self.models and name != ORACLE]
        if not others or self.reference not in measured:
            return []
        best, best_simple = (
            max(names, key=lambda name: self._mean(name, ndcg), default="") for names in (others, simple)
        )
        pairs = [f"{self._value(self.reference, key)} → {self._value(best, key)}" for key in (recall, ndcg)]
        beside = f"{best_simple} {_share(self._mean(best_simple, ndcg))}" if best_simple else ""
        return [f"[{title}](#{_anchor(title)})", f"`{self.task}`", self.reference, best, *pairs, beside]

    def _mean(self, system: str, key: Key) -> float:
        figure = self.figures.get((system, key))
        return math.nan if figure is None or figure["mean"] is None else float(figure["mean"])

    def _table(self, keys: Sequence[Key], heads: Sequence[str], systems: Sequence[str], cell: Any) -> list[str]:
        rows = [[system, *(cell(system, key) for key in keys)] for system in systems]
        return _table(["system", *heads], rows)

    def _value(self, system: str, key: Key) -> str:
        figure = self.figures.get((system, key))
        if figure is None or not _is_number(figure["mean"]):
            return ""
        deviation = figure["deviation"]
        spread = f" ± {_share(deviation)}" if figure["seeds"] > 1 and _is_number(deviation) else ""
        return _share(figure["mean"]) + spread + self._sign(system, key)

    def _sign(self, system: str, key: Key) -> str:
        found = self.differences.get((system, key))
        if found is None or not _is_number(found["p_value"]) or found["p_value"] >= SIGNIFICANT:
            return ""
        return " ▲" if found["difference"] > 0 else " ▼"

    def _difference(self, reference: str, differences: Differences, system: str, key: Key) -> str:
        found = differences.get((system, key))
        if found is None or not _is_number(found["difference"]):
            return ""
        base = self.figures.get((reference, key))
        relative = f" ({found['difference'] / base['mean']:+.0%})" if base and base["mean"] else ""
        interval = f"[{found['ci_low']:+.4f}, {found['ci_high']:+.4f}]"
        return f"{found['difference']:+.4f}{relative} {interval}, p {_p_value(found['p_value'])}"

    def _users(self, key: Key) -> str:
        counts = [self.figures[system, key].get("users") for system in self.systems if (system, key) in self.figures]
        return f"{counts[0]:,}" if counts and counts[0] else ""

    def _in_brackets(self, key: Key) -> str:
        users = self._users(key)
        return f" ({users})" if users else ""


def _training(trained: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    rows = [
        [
            system,
            f"`{training['task']}`",
            str(training["seed"]),
            str(training["best_epoch"]),
            f"{training['seconds']:,.0f}",
            "" if training["sequences_per_second"] is None else f"{training['sequences_per_second']:,.0f}",
            _share(training["validation"].get("validation_ndcg_at_50", math.nan)),
        ]
        for system, of_system in trained.items()
        for training in of_system
    ]
    heads = ["system", "task", "seed", "epoch kept", "seconds", "sequences/s", "validation NDCG@50"]
    return ["Training (seconds with validation, sequences/s without):", "", *_table(heads, rows), ""] if rows else []


def _by_key(rows: Sequence[Mapping[str, Any]], user_filter: str) -> dict[tuple[str, Key], Mapping[str, Any]]:
    return {
        (row["system"], (row["item_group"], row["metric"], row["k"])): row
        for row in rows
        if row["user_filter"] == user_filter
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """The first ``names`` columns hold words, all others numbers."""
    lines = [heads, [*["---"] * names, *["---:"] * (len(heads) - names)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _anchor(title: str) -> str:
    """The name GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _label(key: Key) -> str:
    return f"{_METRICS[key[1]]}@{key[2]}"


def _share(value: float | None) -> str:
    return f"{value:.4f}" if _is_number(value) else ""


def _p_value(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    main()
