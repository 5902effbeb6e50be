"""A first night that trains a model as of the past instant, so that lists are learned with PRECISE's scores at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from precise_core.artefacts import LIST_RANKERS, rankers_in_use
from precise_core.consume.publications import publication_history
from schemas import columns as c
from tests.night import arrow_table, run

pytestmark = pytest.mark.faults  # it takes two trainings


def test_a_first_night_may_train_a_model_of_the_past_instant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = tmp_path / "warehouse"
    flags = (
        "--set",
        "as_of=2024-02-20T00:00:00Z",
        "--set",
        "recommendations.past_model=train",
        "--set",
        "universal.start=continue",
    )
    assert run("run_night", warehouse, *flags) == 0
    assert "first a model as of 2024" in " ".join(capsys.readouterr().out.split())
    then, tonight = publication_history(warehouse, "all")
    features = arrow_table(warehouse, "candidate_features")
    assert features[c.AS_OF].unique().to_pylist() == [then.as_of]
    assert then.space == tonight.space
    assert features["precise_universal"].null_count < features.num_rows / 10
    version = rankers_in_use(warehouse, LIST_RANKERS)["lists"]
    about = json.loads((warehouse / LIST_RANKERS / version / "list_ranker.json").read_text(encoding="utf-8"))
    sources = arrow_table(warehouse, "recommendations")[c.SOURCES].combine_chunks().flatten().unique().to_pylist()
    assert {"u2i", "u2i2i"} <= set(sources)  # learned with them
    assert about["figures"]["precise"] and "with_vectors" in about["figures"]["ndcg"]["all"]["all"]

    assert run("run_night", warehouse, *flags, "--skip-up-to-date") == 0  # there is one now
    assert "first a model as of 2024" not in capsys.readouterr().out
