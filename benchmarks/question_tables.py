"""The tables of one question of an experiment, one task under one user filter, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from benchmarks.markdown import is_number, number, p_value, table
from precise_core.evaluation.names import (
    ALL_TIME,
    MAIN_FIGURES,
    ORACLE,
    asked_at_the_target,
    reweighted,
    sum_of_seeds,
    with_history,
)

Key = tuple[str, str, int]  # item group, metric, k
Rows = Mapping[tuple[str, Key], Mapping[str, Any]]  # by system and key
Cell = Callable[[str, Key], str]

_SIGNIFICANT = 0.05

_MAIN: tuple[Key, ...] = tuple(("all", metric, k) for metric, k in MAIN_FIGURES)
_NOVELTY: Key = ("all", "novelty", 10)
_OF_GAP: tuple[Key, ...] = (("all", "ndcg", 50), ("all", "recall", 10))
_GROUPS = ("hot", "cold", "seen", "rare", "unseen")
_OF_GROUPS: tuple[Key, ...] = tuple((group, "recall", k) for group in _GROUPS for k in (10, 50))
_METRICS = {"recall": "Recall", "ndcg": "NDCG", "novelty": "novelty", "coverage": "coverage"}
_UNSIGNED = ("novelty", "coverage")  # more of either is not better
_DIGITS = {"novelty": 2}  # bits; all others are shares


class Question:
    """The figures of one task under one user filter."""

    def __init__(self, experiment: Mapping[str, Any], task: str, user_filter: str) -> None:
        answer = experiment["tasks"][task]
        self.task, self.user_filter, self.reference = task, user_filter, experiment["reference"]
        self.figures = _by_key(answer["figures"], user_filter)
        differences: dict[str, list[Mapping[str, Any]]] = {self.reference: []}
        for row in answer["differences"]:
            differences.setdefault(row["reference"], []).append(row)
        self.to = {reference: _by_key(rows, user_filter) for reference, rows in differences.items()}
        self.differences = self.to[self.reference]
        evaluated = in_order(system for system, _ in self.figures)
        self.ahead = {asked_at_the_target(system) for system in experiment["trained"]}
        readings = (str, with_history, asked_at_the_target, reweighted)
        rows = [name(system) for system in experiment["trained"] for name in readings]
        trained = [name(row) for row in rows for name in (str, sum_of_seeds)]
        self.models = [system for system in trained if system in evaluated]
        self.systems = [*self.models, *(system for system in evaluated if system not in self.models)]

    def lines(self) -> list[str]:
        parts = [*self.first_table(), *self._gap(), *self._of_groups()]
        for reference, found in self.to.items():
            parts += self._differences(reference, found)
        return parts

    def first_table(self) -> list[str]:
        """Every system, every k that was measured, over all items."""
        users, keys = self._users(_MAIN[0]), [*self._accuracy(), *self._beyond_accuracy()]
        head = f"Task `{self.task}`, user filter `{self.user_filter}`{f', {users} users' if users else ''}:"
        return [head, "", *self._table(keys, self.systems, self._value), ""]

    def at_a_glance(self, title: str, left_out: Set[str]) -> list[str]:
        """One line of the first table, ``title`` first; empty without two systems to compare."""
        ndcg = ("all", "ndcg", 50)
        left_out = left_out | self.ahead
        measured = [name for name in self.systems if name not in left_out and is_number(self._mean(name, ndcg))]
        others = [name for name in measured if name in self.models and name != self.reference]
        simple = [name for name in measured if name not in self.models and name != ORACLE]
        if not others or self.reference not in measured:
            return []
        best, best_simple = (
            max(names, key=lambda name: self._mean(name, ndcg), default="") for names in (others, simple)
        )
        keys = [("all", "recall", 10), ("all", "ndcg", 10), ndcg]
        pairs = [f"{self._value(self.reference, key)} → {self._value(best, key)}" for key in keys]
        beside = f"{best_simple} {number(self._mean(best_simple, ndcg))}" if best_simple else ""
        question = f"`{self.task}`" if self.user_filter == "all" else f"`{self.task}`, seen filtered"
        return [title, question, self.reference, best, *pairs, beside]

    def _accuracy(self) -> list[Key]:
        """Recall and NDCG over all items, at every k that was measured."""
        measured = {key for _, key in self.figures if key[0] == "all" and key[1] in ("recall", "ndcg")}
        return sorted({*_MAIN, *measured}, key=lambda key: (key[1] == "ndcg", key[2]))

    def _beyond_accuracy(self) -> list[Key]:
        """Novelty, and coverage at the largest k that there is."""
        coverages = sorted({key for _, key in self.figures if key[:2] == ("all", "coverage")})
        return [key for key in (_NOVELTY, *coverages[-1:]) if any(map(is_number, self._means(key)))]

    def _gap(self) -> list[str]:
        """The share of the gap that trained systems close; nothing where no oracle is above `most_popular`."""
        keys = [key for key in _OF_GAP if self._gap_of(key) > 0]
        if self.user_filter != "all" or not self.models or not keys:
            return []
        lines = self._table(keys, self.models, self._closed)
        return [f"Share of the gap between `{ALL_TIME}` and the {ORACLE} that is closed:", "", *lines, ""]

    def _gap_of(self, key: Key) -> float:
        return self._mean(ORACLE, key) - self._mean(ALL_TIME, key)

    def _closed(self, system: str, key: Key) -> str:
        share = (self._mean(system, key) - self._mean(ALL_TIME, key)) / self._gap_of(key)
        return f"{100 * share:.1f} %" if is_number(share) else ""

    def _of_groups(self) -> list[str]:
        """Figures by group of items, and the p-values of their differences to the reference system."""
        keys = [key for key in _OF_GROUPS if any((system, key) in self.figures for system in self.systems)]
        if all(group != "unseen" for group, *_ in keys):  # then every item is seen
            keys = [key for key in keys if key[0] != "seen"]
        if not keys:
            return []
        figures = self._table(keys, self.systems, self._value, self._in_brackets)
        parts = ["By group of items (in brackets: users with such an item):", "", *figures, ""]
        compared = [system for system in self.systems if any(self._p_value(system, key) for key in keys)]
        if compared:
            lines = self._table(keys, compared, self._p_value)
            parts += [f"Difference to {self.reference} by group of items, p alone:", "", *lines, ""]
        return parts

    def _differences(self, reference: str, found: Rows) -> list[str]:
        """The table of the differences to one system; empty where it was not evaluated."""
        compared = [system for system in self.systems if any((system, key) in found for key in _MAIN)]
        if not compared:
            return []
        lines = self._table(_MAIN, compared, partial(self._difference, reference, found))
        return [f"Difference to {reference}, its 95 % interval, and p:", "", *lines, ""]

    def _table(
        self, keys: Sequence[Key], systems: Sequence[str], cell: Cell, behind: Callable[[Key], str] = lambda _: ""
    ) -> list[str]:
        """A row per system, a column per key; ``behind`` is appended to the name of a column."""
        rows = [[system, *(cell(system, key) for key in keys)] for system in systems]
        return table(["system", *(_label(key) + behind(key) for key in keys)], rows)

    def _mean(self, system: str, key: Key) -> float:
        figure = self.figures.get((system, key))
        return math.nan if figure is None or figure["mean"] is None else float(figure["mean"])

    def _means(self, key: Key) -> list[float]:
        return [self._mean(system, key) for system in self.systems]

    def _value(self, system: str, key: Key) -> str:
        figure = self.figures.get((system, key))
        if figure is None or not is_number(figure["mean"]):
            return ""
        digits, deviation = _DIGITS.get(key[1], 4), figure["deviation"]
        spread = f" ± {number(deviation, digits)}" if figure["seeds"] > 1 and is_number(deviation) else ""
        return number(figure["mean"], digits) + spread + self._sign(system, key)

    def _sign(self, system: str, key: Key) -> str:
        found = self.differences.get((system, key))
        if key[1] in _UNSIGNED or found is None:
            return ""
        if not is_number(found["p_value"]) or found["p_value"] >= _SIGNIFICANT:
            return ""
        return " ▲" if found["difference"] > 0 else " ▼"

    def _p_value(self, system: str, key: Key) -> str:
        found = self.differences.get((system, key))
        return "" if found is None else p_value(found["p_value"])

    def _difference(self, reference: str, differences: Rows, system: str, key: Key) -> str:
        found = differences.get((system, key))
        if found is None or not is_number(found["difference"]):
            return ""
        base = self.figures.get((reference, key))
        relative = f" ({found['difference'] / base['mean']:+.0%})" if base and base["mean"] else ""
        interval = f"[{found['ci_low']:+.4f}, {found['ci_high']:+.4f}]"
        return f"{found['difference']:+.4f}{relative} {interval}, {p_value(found['p_value'])}"

    def _users(self, key: Key) -> str:
        counts = [self.figures[system, key].get("users") for system in self.systems if (system, key) in self.figures]
        return f"{counts[0]:,}" if counts and counts[0] else ""

    def _in_brackets(self, key: Key) -> str:
        users = self._users(key)
        return f" ({users})" if users else ""


def in_order(names: Iterable[str]) -> list[str]:
    """Each once, in the order in which they come."""
    return list(dict.fromkeys(names))


def _by_key(rows: Iterable[Mapping[str, Any]], user_filter: str) -> dict[tuple[str, Key], Mapping[str, Any]]:
    return {
        (row["system"], (row["item_group"], row["metric"], row["k"])): row
        for row in rows
        if row["user_filter"] == user_filter
    }


def _label(key: Key) -> str:
    group, metric, k = key
    name = f"{_METRICS[metric]}@{k}" if group == "all" else f"{group} {_METRICS[metric]}@{k}"
    return f"{name}, bits" if metric == "novelty" else name
