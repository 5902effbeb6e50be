"""Drift figures against brute force, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from precise_core.config.gates import DriftConfig
from precise_core.publication.drift import norm_change
from precise_core.training.closeness import mean_cosine, neighbour_overlap
from validation.publication import FAIL, WARN, gate_drift


def vectors(seed: int, rows: int = 40, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def overlap_by_hand(old: np.ndarray, new: np.ndarray, k: int) -> float:
    def nearest(side: np.ndarray, row: int) -> set[int]:
        others = [other for other in range(len(side)) if other != row]
        return set(sorted(others, key=lambda other: -(side[row] @ side[other]))[:k])

    return float(np.mean([len(nearest(old, row) & nearest(new, row)) / k for row in range(len(old))]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 30), st.integers(1, 12))
def test_overlap_is_what_counting_by_hand_gives(seed: int, rows: int, k: int) -> None:
    old, new = vectors(seed, rows), vectors(seed + 1, rows)
    assert neighbour_overlap(old, new, k) == pytest.approx(overlap_by_hand(old, new, min(k, rows - 1)))


def test_a_turned_space_has_the_same_neighbours_and_lengths_but_other_cosines() -> None:
    old = vectors(1)
    turn, _ = np.linalg.qr(vectors(2, 6))
    assert neighbour_overlap(old, old @ turn, 10) == 1.0
    assert norm_change(old, old @ turn) == pytest.approx(0)
    assert abs(mean_cosine(old, old @ turn)) < 0.9
    assert mean_cosine(old, old) == pytest.approx(1)


def test_longer_vectors_show_in_lengths_alone() -> None:
    old = vectors(3)
    assert norm_change(old, 1.5 * old) == pytest.approx(0.5)
    assert mean_cosine(old, 1.5 * old) == pytest.approx(1)
    assert mean_cosine(old, vectors(3, width=4)) == 0.0


def test_the_gate_names_the_figure_and_can_be_overruled(spark: SparkSession) -> None:
    facts = {"item_cosine": 0.2, "neighbour_overlap": 0.5, "item_norm_change": 0.1, "unknown_token_share": 0.3}
    arguments = {"run_id": "r1", "task": "all", "limits": DriftConfig()}
    verdict = gate_drift(spark, facts, level=FAIL, **arguments)  # type: ignore[arg-type]
    broken = {record["column"] for record in verdict.records if not record["success"]}
    assert broken == {"item_cosine", "unknown_token_share"} and len(verdict.failures) == 2
    accepted = gate_drift(spark, facts, level=WARN, **arguments)  # type: ignore[arg-type]
    assert accepted.is_valid and len(accepted.warnings) == 2
    assert gate_drift(spark, {}, level=FAIL, **arguments).records == []  # type: ignore[arg-type]
