"""What selects a model: its ranking of the whole catalog, against users ranked one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from precise_core.feed.windows import WindowFeed
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.training.config import TargetFilter
from precise_core.training.validation import NDCG, RECALL, validate
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c
from tests.torch_world import ARROW, NUM_ITEMS, Window, grouped_windows, tiny_model, world_catalog, write_windows

BEYOND = NUM_ITEMS + 7  # of no row of catalog or model: an item that neither knows
WINDOWS: list[Window] = [
    *grouped_windows(40, seed=1, with_targets=True),
    ([2, BEYOND, 5], [1, 2, 3], [7]),
    ([4], [1], [8, 9, 10]),
    ([6, 7], [1, 2], []),  # nothing to find: not counted
    ([11, 12], [1, 2], [12, 11]),  # nothing new to find
    ([13, 14, 15], [1, 2, 3], [14, 16]),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "changes", [{}, {"late_fusion": True}, {"similarity": "dot"}, {"prediction": "masked_item"}], ids=str
)
@pytest.mark.parametrize("user_filter", ["all", "new"])
@pytest.mark.parametrize("trained_rows", [NUM_ITEMS + 2, NUM_ITEMS - 3])  # a catalog may be larger than a model
def test_validation_is_the_mean_over_users_ranked_one_by_one(
    tmp_path: Path, changes: dict[str, Any], trained_rows: int, user_filter: TargetFilter
) -> None:
    write_windows(tmp_path / "training_windows", WINDOWS, split="validation", files=3)
    feed = WindowFeed(DeltaSnapshot(tmp_path / "training_windows"), "all", "validation", 16, seed=0, config=ARROW)
    catalog = world_catalog()
    torch.manual_seed(3)
    model = Precise(tiny_model(**changes), trained_rows, catalog.known_token_ids, "universal", 3).train()
    found = validate(model, catalog, feed, user_filter)
    assert model.training
    model.eval()
    items = torch.arange(c.FIRST_ITEM_INDEX, catalog.num_rows)
    items_ND = model.serving_item_vectors(fuse_distinct(model, catalog, items)[0])
    recalls, gains = [], []
    for history, _, asked in WINDOWS:
        had = set(history) if user_filter == "new" else set()
        truth = set(asked) - had
        if not truth:
            continue
        e_1LD = fuse_distinct(model, catalog, torch.tensor([list(history)]))[0]
        h_1D = model.user_embeddings(e_1LD, torch.ones(1, len(history), dtype=torch.bool))
        scores_N = (model.serving_user_vectors(h_1D) @ items_ND.T)[0]
        ranking = [int(row) + c.FIRST_ITEM_INDEX for row in scores_N.argsort(descending=True)]
        ranking = [item for item in ranking if item not in had]
        recalls.append(sum(item in truth for item in ranking[:10]) / min(10, len(truth)))
        ideal = sum(1 / math.log2(place + 2) for place in range(len(truth)))
        gains.append(sum(1 / math.log2(ranking.index(item) + 2) for item in truth) / ideal)
    assert found[RECALL] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)
    assert found[NDCG] == pytest.approx(sum(gains) / len(gains), abs=1e-6)
