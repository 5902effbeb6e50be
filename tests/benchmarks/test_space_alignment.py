"""The benchmark of one space across retrains: what it calls aligned is what the checkpoints serve, and it can lose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.alignment_page import tables
from benchmarks.space_alignment import Night, World, measure
from precise_core.config import load_config
from precise_core.settings import Settings
from precise_core.training.checkpoint import Alignment, Checkpoint
from precise_core.vectors.encoding import encode_catalog
from schemas import columns as c
from tests.night import ROOT
from tests.torch_world import world_catalog
from tests.training.test_checkpoints import make_model, write

FIRST = datetime(2024, 1, 10, tzinfo=UTC)
STEP = timedelta(days=2)
SETS = ["ranker.epochs=25", "ranker.learning_rate=0.01", "ranker.batch_size=128", "dcn.dropout=0", "windows.length=8"]
SETS += ["windows.stride=8", "ranker.leave_out=[user_id,item_id,category]"]  # the vectors alone know anything


def world(values_V: np.ndarray) -> World:
    """An impression is taken where the item's value is above 0; ten of 40 users have no event after the start."""
    rng, frames = np.random.default_rng(0), []
    for rows, start in ((600, FIRST - STEP), (1600, FIRST)):
        items = rng.integers(2, len(values_V), rows)
        when = pd.to_datetime(start) + pd.to_timedelta(rng.integers(0, 4 * 86_400, rows), unit="s")
        frames.append(pd.DataFrame({c.USER_ID: [f"u{user}" for user in rng.integers(0, 40, rows)], "when": when}))
        frames[-1][c.ITEM_INDEX], frames[-1][c.ITEM_ID] = items, [f"i{item}" for item in items]
    events, shown = frames
    events[c.EVENT_TS] = events.pop("when")
    events = events[(events[c.EVENT_TS] < FIRST) | ~events[c.USER_ID].isin([f"u{user}" for user in range(30, 40)])]
    shown[c.IMPRESSION_TS], shown["hour"] = shown.pop("when"), "12"
    shown[c.IMPRESSION_ID] = [f"p{row}" for row in range(len(shown))]
    shown[c.LABEL], shown["category"] = (values_V[shown[c.ITEM_INDEX]] > 0).astype(int), "x"
    shown.attrs["features"] = [c.USER_ID, c.ITEM_ID, "category", "hour"]
    return World(events.sort_values([c.USER_ID, c.EVENT_TS]), shown)


def test_a_map_of_another_space_loses_what_the_vectors_are_worth(tmp_path: Path) -> None:
    """Both nights have the same weights; tonight's are turned away, so that only a DCN trained again can read them."""
    model = make_model(seed=3)
    random = np.linalg.qr(np.random.default_rng(1).normal(size=(model.width, model.width)))[0]
    figures = {"cosine_before": 1.0, "cosine": 0.0, "residual": 1.4, "neighbour_overlap": 1.0}
    before = write(tmp_path, model)
    turned = {"space_map_DD": torch.from_numpy(random).float(), "space": before.model_version}
    today = write(tmp_path, model, **turned, alignment=Alignment(anchor=before.model_version, figures=figures))
    vectors = encode_catalog(before.load_model(), world_catalog(), np.arange(world_catalog().num_rows))
    settings = load_config(ROOT / "conf" / "synthetic.yaml", Settings, SETS)
    nights = [_night(FIRST, before, before), _night(FIRST + STEP, today, before)]  # what goes on has learnt nothing
    found = measure(settings, nights, world(vectors @ random[:, 0]), STEP, seeds=[1])
    (maps,) = found["nights"]
    assert maps["user_cosine_before"] == pytest.approx(1, abs=1e-5) and maps["user_cosine"] < 0.9
    assert maps["verdict"].startswith("cosine 0.000 is below")
    auc = {row["system"]: row["auc"] for row in found["rankers"]}
    assert {row["policy"] for row in found["rankers"]} == {"scratch"}
    assert auc["without"] == pytest.approx(0.5, abs=0.1)
    assert auc["unaligned, vectors only"] > 0.95 and auc["retrained, vectors only"] > 0.95
    assert auc["aligned, vectors only"] < 0.85
    page = "\n".join(tables(found))
    assert page.count("| scratch | aligned, vectors only |") == 2 and page.count("share of the gain") == 2


def _night(as_of: datetime, scratch: Checkpoint, went_on: Checkpoint) -> Night:
    return Night(as_of, world_catalog(), {"scratch": scratch, "continue": went_on}, None)
