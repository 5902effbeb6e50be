"""The pages for teams that consume: every block of Python runs as it is written, and the ways of joining agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precise_core.config import load_config
from precise_core.settings import Settings
from tests.night import ROOT


def run_page(name: str, monkeypatch: pytest.MonkeyPatch, night: Path, folder: Path) -> dict[str, Any]:
    """Run the blocks of a page one after the other, where `build/demo/warehouse` is the night's warehouse."""
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    (folder / "build" / "demo").mkdir(parents=True)
    (folder / "build" / "demo" / "warehouse").symlink_to(night)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, name, "exec"), names)
    return names


def scores(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    return frame.set_index("impression_id")["precise_score"].loc[ids].to_numpy(float)


def test_every_way_to_join_gives_the_same_scores(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_page("join_our_features.md", monkeypatch, night, tmp_path)
    joined = names["joined"]
    ids = joined["impression_id"].tolist()
    expected = scores(joined, ids)
    assert 0 < np.isnan(expected).mean() < 1  # some impressions lie before the first vector
    others = {"training": names["training_rows"], "sql": names["by_sql"], "spark": names["in_spark"].toPandas()}
    others["polars"] = names["by_polars"].select("impression_id", "precise_score").to_pandas()
    for name, frame in others.items():
        np.testing.assert_allclose(scores(frame, ids), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert "user_embeddings" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"all: universal-all-\w+ knows the world up to 2024-02-20"):
        names["require_fresh"]("all", pd.Timedelta(days=2))


def test_the_first_hour_ends_with_an_uplift_figure(
    night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_page("ranking_first_hour.md", monkeypatch, night, tmp_path)
    out = capsys.readouterr().out
    assert re.search(r"^auc: [+-]0\.\d{4} \[[+-]\d\.\d{4}, [+-]\d\.\d{4}\], p = \d\.\d{3}$", out, re.MULTILINE)
    assert {"train", "validation", "test"} == set(names["features"]["split"])


def test_the_commands_of_the_first_hour_exist() -> None:
    page = (ROOT / "docs" / "ranking_first_hour.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python (jobs/\w+\.py) --config (\S+)(?: --set (\S+))?$", page, re.MULTILINE)
    assert len(commands) == 5
    for job, config, change in commands:
        assert (ROOT / job).is_file()
        load_config(str(ROOT / config), Settings, [change] if change else [])
    assert "table-ix:" in (ROOT / "Makefile").read_text(encoding="utf-8")
