"""Ranking features over several publications: each impression keeps the vectors of its own night, whatever follows."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from precise_core.config import load_config
from precise_core.errors import NothingToEvaluateError
from precise_core.evaluation.night import ranking_rows
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import PUBLISHED_MODELS, RANKING_FEATURES, USER_EMBEDDINGS, Table
from schemas import columns as c
from tests.night import CONFIG, copy_of, run
from tests.nights.test_night import read

FIRST = datetime(2024, 2, 20, tzinfo=UTC)  # as_of of conf/synthetic.yaml
SECOND = FIRST + timedelta(days=5)
ONE_TASK = ("--set", "ranking_features.tasks=[all]")


def rewrite(house: Warehouse, table: Table, rows: pa.Table) -> int:
    write_deltalake(house.path(table), rows, mode="overwrite", partition_by=list(table.partition_by) or None)
    return house.version(table)


def publish_second_night(house: Warehouse) -> None:
    """All user vectors are turned around and published with a later `as_of`, under the same checkpoint."""
    users = house.read_arrow(USER_EMBEDDINGS, house.version(USER_EMBEDDINGS))
    turned = [[-value for value in vector] for vector in users[c.EMBEDDING].to_pylist()]
    columns = {c.EMBEDDING: pa.array(turned, pa.list_(pa.float32())), c.AS_OF: [SECOND] * len(users)}
    for name, values in columns.items():
        place = users.column_names.index(name)
        users = users.set_column(place, users.schema.field(name), pa.array(values, users.schema.field(name).type))
    version = rewrite(house, USER_EMBEDDINGS, users)
    rows = house.read_arrow(PUBLISHED_MODELS, house.version(PUBLISHED_MODELS)).to_pylist()
    for row in rows:
        versions = dict(row["table_versions"]) | {USER_EMBEDDINGS.name: version}
        row |= {c.AS_OF: SECOND, c.VALID_FROM: SECOND, "table_versions": list(versions.items())}
    rewrite(house, PUBLISHED_MODELS, pa.Table.from_pylist(rows, schema=PUBLISHED_MODELS.arrow_schema()))


def features(warehouse: Path) -> pd.DataFrame:
    """Those of task `all`, by impression."""
    rows = read(warehouse, "ranking_features")
    return rows[rows[c.TASK] == "all"].sort_values(c.IMPRESSION_ID).reset_index(drop=True)


def test_each_impression_keeps_the_vectors_of_its_night(night: Path, tmp_path: Path) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    before, version = features(warehouse), house.version(RANKING_FEATURES)
    first_users = house.version(USER_EMBEDDINGS)

    publish_second_night(house)
    assert run("build_ranking_features", warehouse, *ONE_TASK) == 0
    after = features(warehouse)
    assert house.version(RANKING_FEATURES) > version
    is_later = after[c.IMPRESSION_TS] >= SECOND
    assert 0 < is_later.sum() < len(after) and after[c.PRECISE_SCORE].notna().any()
    sign = is_later.map({True: -1.0, False: 1.0})
    np.testing.assert_allclose(after[c.PRECISE_SCORE], before[c.PRECISE_SCORE] * sign, rtol=1e-5)
    same = [name for name in before.columns if name not in (c.PRECISE_SCORE, c.USER_EMBEDDING)]
    pd.testing.assert_frame_equal(after[same], before[same])

    # The files of the first night's vectors go, as VACUUM would have it; what was joined in time stays.
    live = set(DeltaTable(house.path(USER_EMBEDDINGS)).file_uris())
    for file in set(DeltaTable(house.path(USER_EMBEDDINGS), version=first_users).file_uris()) - live:
        Path(file).unlink()
    version = house.version(RANKING_FEATURES)
    assert run("build_ranking_features", warehouse, *ONE_TASK) == 0
    assert house.version(RANKING_FEATURES) == version  # the same rows: no commit


def test_without_impressions_since_the_first_publication_ranking_is_left_out(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house = Warehouse(str(warehouse))
    rows = house.read_arrow(PUBLISHED_MODELS, house.version(PUBLISHED_MODELS)).to_pylist()
    for table in (PUBLISHED_MODELS, RANKING_FEATURES):
        shutil.rmtree(house.path(table))
    at = {c.AS_OF: SECOND + timedelta(days=30), c.VALID_FROM: SECOND + timedelta(days=30)}
    later = [row | at | {"table_versions": dict(row["table_versions"])} for row in rows]
    house.replace_records(PUBLISHED_MODELS, later)
    for job in ("build_ranking_features", "train_ranker", "score_ranking"):
        assert run(job, warehouse, *ONE_TASK) == 0
    assert "no impression lies at or after the as_of" in capsys.readouterr().out.replace("\n", " ")
    assert pointer_of(warehouse) == {name: pointer_of(night)[name] for name in ("DCN", "DCN + PRECISE-UT")}  # kept
    with pytest.raises(NothingToEvaluateError, match="no impression is in the test split"):
        ranking_rows(job_of(warehouse))


def pointer_of(warehouse: Path) -> dict[str, str]:
    return dict(json.loads((warehouse / "rankers" / "latest.json").read_text()))


def job_of(warehouse: Path) -> Job:
    return Job("evaluate", load_config(CONFIG, Settings, [f"warehouse={warehouse}"]), Namespace())


@pytest.mark.faults
def test_a_task_that_has_nothing_to_learn_yet_holds_nobody_up(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    house, before = Warehouse(str(warehouse)), pointer_of(night)
    rows = house.read_arrow(RANKING_FEATURES, house.version(RANKING_FEATURES))
    rewrite(house, RANKING_FEATURES, rows.filter(pc.equal(rows[c.TASK], "all")))
    targeted = "DCN + PRECISE (click_articles)"
    assert run("train_ranker", warehouse, "--set", "ranker.epochs=1") == 0
    now = pointer_of(warehouse)
    assert now.keys() == before.keys() and {name for name in now if now[name] == before[name]} == {targeted}
    assert f"{targeted}: left out, click_articles: no impression" in " ".join(capsys.readouterr().out.split())

    # The old scores are those of other models than are in use: not compared before they are scored.
    with pytest.raises(NothingToEvaluateError, match="DCN, which the others are compared with, has no scores"):
        ranking_rows(job_of(warehouse))
    assert "test impressions have no score of dcn-" in " ".join(capsys.readouterr().out.split())
    assert run("score_ranking", warehouse) == 0
    assert {row["system"] for row in ranking_rows(job_of(warehouse))} == set(before)
