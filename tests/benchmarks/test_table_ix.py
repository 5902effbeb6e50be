"""Table IX is measured on impressions that no variant learned from, and the page says what the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.ranking_page import FIELDS, section
from benchmarks.table_ix import METRICS, measure
from precise_core.config import load_config
from precise_core.settings import Settings
from schemas import columns as c
from tests.night import CONFIG
from tests.nights.test_night import read

SYSTEMS = ["DCN", "DCN + PRECISE-UT", "DCN + PRECISE (click_articles)"]
SYSTEMS += [f"DCN + PRECISE (click_articles), {part} only" for part in ("vectors", "score")]


@pytest.fixture(scope="module")
def found(night: Path) -> dict[str, Any]:
    changes = [f"warehouse={night}", "ranker.epochs=1", "evaluation.bootstrap_samples=100"]
    return measure(load_config(str(CONFIG), Settings, changes), [1, 2], "conf/synthetic.yaml")


def test_every_variant_answers_both_questions(night: Path, found: dict[str, Any]) -> None:
    assert set(FIELDS) <= set(found)
    features = read(night, "ranking_features")
    learned_from = set(features.loc[features[c.SPLIT] != "test", c.IMPRESSION_ID])
    tested = set(features[c.IMPRESSION_ID]) - learned_from
    assert found["impressions"]["test"] == len(tested) > 100
    assert [question["features"] for question in found["questions"]] == ["discrete", "discrete and dense"]
    for question in found["questions"]:
        figures = pd.DataFrame(question["figures"])
        assert figures["system"].unique().tolist() == SYSTEMS
        assert np.isfinite(figures[["mean", "deviation"]].to_numpy(float)).all()
        assert set(figures["metric"]) == set(METRICS)
        means = figures.set_index(["system", "metric"])["mean"]
        for row in question["differences"]:
            if row["metric"] == "auc":  # the others are means over users first
                gap = means[row["system"], "auc"] - means["DCN", "auc"]
                assert row["difference"] == pytest.approx(gap) and row["ci_low"] <= gap <= row["ci_high"]


def test_the_page_shows_figures_signs_and_intervals(found: dict[str, Any]) -> None:
    figure = {"system": "DCN", "metric": "auc", "mean": 0.7, "deviation": None}
    figures = [figure | {"system": s, "metric": m} for s in ("DCN", "DCN + PRECISE-UT") for m in METRICS]
    difference = {"system": "DCN + PRECISE-UT", "ci_low": -0.01, "ci_high": 0.03, "difference": 0.0123}
    values = {"auc": 0.0004, "gauc": 0.3, "log_loss": 0.02}
    differences = [difference | {"metric": metric, "p_value": p} for metric, p in values.items()]
    page = section(found | {"questions": [{"features": "discrete", "figures": figures, "differences": differences}]})
    assert "| DCN | 0.7000 | 0.7000 | 0.7000 | 0.7000 |" in page
    assert "| DCN + PRECISE-UT | 0.7000 ▲ | 0.7000 | 0.7000 ▼ | 0.7000 |" in page  # more log loss is worse
    assert "+0.0123 [-0.0100, +0.0300], p < .001 |" in page and "p .300 |" in page
    assert 'make table-ix CONFIG=conf/synthetic.yaml SEEDS="1 2"' in page
    assert section(found).count("Difference to DCN") == 2
