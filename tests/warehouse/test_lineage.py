"""OpenLineage's listener, in a JVM of its own: what the events of a job say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schemas
from precise_core.errors import EnvironmentProblem
from precise_core.warehouse import session
from precise_core.warehouse.config import SparkConfig
from schemas import columns as c
from tests.fake_warehouse import ITEMS, events, put
from tests.night import job_of_its_own


@pytest.mark.faults
def test_the_lineage_of_sequences_has_the_names_of_the_docs(tmp_path: Path) -> None:
    assert session.lineage_jar().is_file(), "run `make install-lineage`"
    put(tmp_path, schemas.EVENTS, events(np.random.default_rng(3)))
    put(tmp_path, schemas.ITEM_VOCABULARY, [{c.ITEM_ID: f"i{n}", c.ITEM_INDEX: n + 2} for n in range(ITEMS)])
    file = tmp_path / "lineage" / "events.jsonl"
    flags = ("--set", f"spark.lineage={file}", "--set", "as_of=2024-03-01")
    with job_of_its_own("build_sequences", tmp_path, *flags) as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    told = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    jobs = {(event["job"]["namespace"], event["job"]["name"].partition(".")[0]) for event in told}
    assert jobs == {("synthetic", "build_sequences")}
    (written,) = [event for event in told if event["eventType"] == "COMPLETE" and event["outputs"]]
    assert names(written["inputs"]) == {"events", "item_vocabulary"}
    assert names(written["outputs"]) == {"user_sequences"}


def names(datasets: list[dict[str, Any]]) -> set[str]:
    return {dataset["name"] for dataset in datasets}


def test_a_missing_jar_is_said_before_spark_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    monkeypatch.setattr(session, "spark_home", lambda: tmp_path)
    config = SparkConfig(lineage=str(tmp_path / "events.jsonl"))
    with pytest.raises(EnvironmentProblem, match=r"openlineage-spark_2.13-[\d.]+jar is not installed; .*install-linea"):
        session.get_session("precise-ingest", config)
