"""Trees over lists learn what depends on two features together, and are shown beside the simple orders."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recommendations.ranked_lists import candidate_lists

list_trees = pytest.importorskip("benchmarks.list_trees", reason="lightgbm is not installed")


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
def test_trees_learn_a_planted_signal_and_stop_where_held_out_lists_say(objective: str) -> None:
    train, held_out = candidate_lists(1, lists=200), candidate_lists(2, lists=40)
    found, rounds = list_trees.tree_scores(train, held_out, objective, seed=1, threads=1)
    noise = np.random.default_rng(0).random(len(found))
    assert held_out.ndcg(found, 5).mean() > held_out.ndcg(noise, 5).mean() + 0.3
    assert 0 < rounds < 2000
    lines = list_trees.compared(held_out, {**list_trees.simple_scores(held_out), objective: [found, found]})
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["all", "new", "repeat"] * 2
    assert all(len(line.split("|")) == len(lines[0].split("|")) for line in lines)
