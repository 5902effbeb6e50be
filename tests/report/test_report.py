"""The report: what a reader sees of a whole night, of a night with holes, and of a night full of traps."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import schemas
from precise_core.report import formats, plots
from precise_core.report.data import read_metric_log
from precise_core.report.page import build_report, print_summary
from precise_core.report.verdicts import judge
from precise_core.warehouse.reader import TableReader
from schemas import columns as c
from tests.fake_warehouse import (
    AS_OF,
    ITEMS,
    TARGETED,
    UNIVERSAL,
    all_metrics,
    events,
    figures_of,
    put,
    put_whole_night,
    runs,
    settings_of,
)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("warehouse")
    put_whole_night(root)
    return root


@pytest.fixture(scope="module")
def page(warehouse: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("out") / "deeper" / "report.html"
    assert build_report(warehouse, settings_of(warehouse), out) == out
    return out.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Sections, the text of each, and every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {"": ""}
        self.place = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.place = dict(attrs)["id"] or ""
            self.text[self.place] = ""

    def handle_data(self, data: str) -> None:
        self.text[self.place] += f" {' '.join(data.split())}"


def test_a_whole_night_fills_every_section(page: str) -> None:
    outline = Outline(page)
    assert "Could not be built" not in page
    assert {name for name, text in outline.text.items() if "Skipped" in text} == {"sources", "lists"}  # it has no lists
    expected = {
        "intake": ("3,020", "time is missing", "17"),
        "sequences": ("60 users", "54", "6"),
        "scenes": ("articles", "live $5 & $6", "share"),
        "popularity": ("cold in universal-3f9ac1", "12", "10 %"),
        "training": (
            f"{UNIVERSAL}, published",
            TARGETED,
            "Training loss: 6.89 at first",
            "NDCG@50 at best .156",
            "410 sequences",
        ),
        "experts": ("the busiest expert takes 40 %",),
        "precise": ("PRECISE-UT", "personal frequency", "ratio"),
        "retrieval": (
            "Recall@10",
            "NDCG@30",
            "item-kNN",
            "cold items",
            ".123 to .151",
            "2,464",
            "most popular (7 days)",
        ),
        "recall": ("U2I2I beats U2I on all",),
        "ranking": ("AUC (.742 against .731)", "GAUC", "log loss"),
        "examples": ("User 1", "Item 3: a title of some length", "because of Item"),
        "gates": ("All 9 expectations held",),
        "jobs": ("train_universal", "10 min 12 s", "73.3"),
        "versions": ("item_vocabulary", "as_of: '2024-03-01T00:00:00Z'", "temperature"),
    }
    for section, texts in expected.items():
        for text in texts:
            assert text in outline.text[section], (section, text)
    assert len([tag for tag, _ in outline.tags if tag == "svg"]) > 20
    assert (
        "PRECISE-UT loses to personal frequency on all, repeats counted: NDCG@50 .137 against .292" in outline.text[""]
    )


def test_the_file_stands_alone_and_is_accessible(page: str) -> None:
    outline = Outline(page)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in outline.tags}
    links = [value for _, attrs in outline.tags for key, value in attrs.items() if key in ("href", "src", "xlink:href")]
    assert links and all(value and value.startswith(("#", "data:")) for value in links)
    assert not re.search(r"url\((?!#)|@import", page)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link and link.startswith("#")} <= set(ids)
    drawings = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert all(d["aria-label"] and d["role"] == "img" and "viewbox" in d and "width" not in d for d in drawings)


def test_data_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; Sons" in page


def test_the_same_warehouse_gives_the_same_bytes(warehouse: Path, page: str, tmp_path: Path) -> None:
    out = build_report(warehouse, settings_of(warehouse), tmp_path / "again.html")
    assert out.read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_an_empty_warehouse_makes_a_report_of_reasons(tmp_path: Path) -> None:
    text = Outline(build_report(tmp_path, settings_of(tmp_path), tmp_path / "r.html").read_text()).text
    assert all("Skipped:" in found for section, found in text.items() if section)
    assert "jobs/ingest.py" in text["intake"]
    print_summary(tmp_path, settings_of(tmp_path), Console(file=StringIO()))


def test_a_plain_source_skips_what_it_cannot_have(tmp_path: Path) -> None:
    """No impressions, no text, one scene, one action, no experts."""
    rows = [row | {c.SCENE: "shop", c.ACTION: "buy"} for row in events(np.random.default_rng(1))[:300]]
    put(tmp_path, schemas.EVENTS, rows)
    put(tmp_path, schemas.ITEMS, [{c.ITEM_ID: f"i{item}"} for item in range(ITEMS)])
    with_ids_only = settings_of(tmp_path, model={"fusion": {"mode": "id"}})
    text = Outline(build_report(tmp_path, with_ids_only, tmp_path / "r.html").read_text()).text
    assert "the source has no impressions" in text["ranking"]
    assert "one scene 'shop'" in text["scenes"] and "one action 'buy'" in text["scenes"]
    assert "No item has text" in text["popularity"]
    assert "'id', which has no experts" in text["experts"]
    assert "No row was rejected" in text["intake"]


def test_one_broken_part_costs_one_section(warehouse: Path, tmp_path: Path) -> None:
    broken = tmp_path / "warehouse"
    broken.mkdir()
    (broken / "tables").symlink_to(warehouse / "tables")
    (broken / "checkpoints").mkdir()
    (broken / "checkpoints" / "latest-all.json").write_text("{not json")
    text = Outline(build_report(broken, settings_of(broken), tmp_path / "r.html").read_text()).text
    assert "Could not be built: JSONDecodeError" in text["training"]
    assert "PRECISE-UT" in text["retrieval"] and "Skipped" not in text["intake"]


def test_failures_are_said(tmp_path: Path) -> None:
    failed = {c.JOB: "ingest", "started_at": AS_OF + timedelta(days=1), "status": "failed", "error": "disk <full>"}
    put(tmp_path, schemas.RUNS, [*runs(), failed | {c.RUN_ID: "r99", "config_hash": "other", "configuration": "{}"}])
    result = {"table_name": "events", "expectation": "not_null", "column": c.ITEM_ID, "element_count": 900}
    old = result | {"success": True, c.RUN_ID: "r0", "checked_at": AS_OF - timedelta(days=1)}
    put(tmp_path, schemas.VALIDATION_RESULTS, [result | {"unexpected_count": 3, c.RUN_ID: "r99"}, old])
    put(tmp_path, schemas.EVENTS, events(np.random.default_rng(1))[:9])
    text = Outline(build_report(tmp_path, settings_of(tmp_path), tmp_path / "r.html").read_text()).text
    assert "ingest failed: disk <full>" in text["jobs"]
    assert "1 of 1 expectations failed" in text["gates"] and "not_null" in text["gates"]


def test_only_what_is_current_is_shown(tmp_path: Path) -> None:
    """Figures of the configured as_of; of a job that ran per task every task, of a superseded run nothing."""
    later = {c.AS_OF: AS_OF + timedelta(days=7)}
    put(tmp_path, schemas.EVALUATION_METRICS, all_metrics())
    put(tmp_path, schemas.EVALUATION_METRICS, figures_of("retrieval", "all", {"of_tomorrow": 0.5}, **later))
    trained = runs()[4] | {c.JOB: "train_targeted"}
    made = [("old", "like", 11.0), ("new", "share", 22.0), ("new", "share", 33.0), ("new", "click", 44.0)]
    for number, (config, task, seconds) in enumerate(made):
        run = trained | {c.RUN_ID: f"t{number}", "started_at": AS_OF + timedelta(hours=number), "seconds": seconds}
        put(tmp_path, schemas.RUNS, [run | {"config_hash": config, "artefacts": [(f"checkpoint:{task}", "v")]}])
    text = Outline(build_report(tmp_path, settings_of(tmp_path), tmp_path / "r.html").read_text()).text
    assert "of tomorrow" not in text["retrieval"]
    assert "train_targeted (share)" in text["jobs"] and "train_targeted (click)" in text["jobs"]
    assert "33 s" in text["jobs"] and "22 s" not in text["jobs"] and "11 s" not in text["jobs"]


def test_the_summary_names_systems_and_jobs(warehouse: Path) -> None:
    target = StringIO()
    print_summary(warehouse, settings_of(warehouse), Console(file=target, width=140))
    printed = target.getvalue()
    for text in ("NDCG@50", "new", "item-kNN", ".292", "DCN + PRECISE-UT", ".742", "10 min 12 s", "loses to personal"):
        assert text in printed, text


def test_a_pinned_table_ignores_files_the_log_does_not_list(tmp_path: Path) -> None:
    """Also: partition columns come back, and Spark's INT96 times filter like any other."""
    root = tmp_path / "ware house é"
    rows = events(np.random.default_rng(1))[:40]
    put(root, schemas.EVENTS, rows)
    tables = TableReader(root)
    for file in (root / "tables" / "events").rglob("*.parquet"):
        pq.write_table(pq.read_table(file, partitioning=None), file, use_deprecated_int96_timestamps=True)
        pq.write_table(pq.read_table(file, partitioning=None), file.with_name("stray.parquet"))
    middle = rows[20][c.EVENT_TS]
    assert tables.rows(schemas.EVENTS) == 40
    found = tables.frame(schemas.EVENTS, [c.EVENT_ID, c.EVENT_DATE], pa.compute.field(c.EVENT_TS) < pa.scalar(middle))
    assert sorted(found[c.EVENT_ID]) == sorted(row[c.EVENT_ID] for row in rows[:20])
    assert set(found[c.EVENT_DATE]) == {row[c.EVENT_DATE] for row in rows[:20]}
    counted = tables.counts(schemas.EVENTS, [c.SCENE, c.ACTION])
    oracle = pd.DataFrame(rows).groupby([c.SCENE, c.ACTION]).size()
    assert {(r.scene, r.action): r.rows for r in counted.itertuples()} == oracle.to_dict()


def frame(*groups: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in groups for row in group])


def verdicts(metrics: pd.DataFrame) -> list[str]:
    return [verdict.text for verdict in judge(metrics)]


def test_a_loss_is_said_plainly() -> None:
    said = verdicts(frame(figures_of("retrieval", "all", {"PRECISE": 0.13, "personal_frequency": 0.29})))
    expected = "PRECISE loses to personal frequency on all, repeats counted: NDCG@50 .130 against .290 (2,464 users)."
    assert said == [expected]


def test_everybody_who_matters_is_compared() -> None:
    values = {
        "PRECISE-UT": 0.20,
        "PRECISE": 0.26,
        "PRECISE-UT untrained": 0.01,
        "most_popular_7d": 0.12,
        "item_knn": 0.21,
    }
    said = verdicts(frame(figures_of("retrieval", "share", values, user_filter="new")))
    assert said[0].startswith("PRECISE beats item-kNN on share, new items only: NDCG@50 .260 against .210 (")
    loss = "PRECISE-UT loses to item-kNN on share, new items only: NDCG@50 .200 against .210, though the intervals"
    assert f"{loss} overlap." in said
    repeats = verdicts(frame(figures_of("retrieval", "share", values, user_filter="repeat")))
    assert repeats[0].startswith("PRECISE beats item-kNN on share, repeats only: NDCG@50 .260 against .210 (")
    assert any(text.startswith("PRECISE-UT beats PRECISE-UT untrained on share") for text in said)
    assert any(text.startswith("PRECISE-UT beats most popular (7 days) on share") for text in said)
    assert any(text.startswith("PRECISE beats PRECISE-UT on share") for text in said)


def test_the_best_reference_is_the_bar_whatever_it_is() -> None:
    for name, system in (("tifu_knn", "TIFU-KNN"), ("own_decayed", "own history, decayed"), ("ease", "EASE")):
        said = verdicts(frame(figures_of("retrieval", "all", {"PRECISE-UT": 0.2, name: 0.3, "item_knn": 0.1})))
        assert said[0].startswith(f"PRECISE-UT loses to {system} on all, repeats counted: NDCG@50 .200 against .300 (")


def test_ranking_names_the_metrics_won_and_lost() -> None:
    rows = [
        figures_of("ranking", task, {system: value}, metric=metric, k=0, users=9)
        for system, task, auc, loss in (("DCN", "all", 0.70, 0.30), ("DCN + PRECISE (share)", "share", 0.75, 0.41))
        for metric, value in (("auc", auc), ("log_loss", loss))
    ]
    said = verdicts(frame(*rows))
    assert said == [
        "DCN + PRECISE (share) beats plain DCN on AUC (.750 against .700, intervals overlap) "
        "but does not beat it on log loss (.410 against .300)."
    ]


def test_a_paired_gain_says_more_than_two_intervals() -> None:
    gains = {"auc_gain": (0.05, 0.04), "log_loss_gain": (0.01, -0.01)}
    rows = [
        figures_of("ranking", "all", {system: value}, metric=metric, k=0)
        for system, auc, loss in (("DCN", 0.70, 0.42), ("DCN + PRECISE-UT", 0.75, 0.41))
        for metric, value in (("auc", auc), ("log_loss", loss))
    ]
    for metric, (value, low) in gains.items():
        row = figures_of("ranking", "all", {"DCN + PRECISE-UT": value}, metric=metric, k=0)[0]
        rows.append([row | {"ci_low": low, "ci_high": 2 * value}])
    assert verdicts(frame(*rows)) == [
        "DCN + PRECISE-UT beats plain DCN on AUC (.750 against .700, paired interval without 0) "
        "and log loss (.410 against .420, may be chance)."
    ]


def test_a_calibration_is_drawn_from_the_scores_in_use(tmp_path: Path) -> None:
    put_whole_night(tmp_path)
    rows = [
        {c.IMPRESSION_ID: f"p{n}", c.LABEL: n % 3 == 0, c.SPLIT: "test" if n < 90 else "train", c.MODEL_VERSION: "v"}
        for n in range(120)
    ]
    put(tmp_path, schemas.RANKING_FEATURES, [row | {c.LABEL: int(row[c.LABEL])} for row in rows])
    scores = [
        {c.IMPRESSION_ID: f"p{n}", c.SCORE: 0.2 + 0.1 * (n % 3 == 0), c.RANKER_VERSION: "dcn-1"} for n in range(120)
    ]
    put(tmp_path, schemas.RANKING_SCORES, scores)
    (tmp_path / "rankers").mkdir()
    (tmp_path / "rankers" / "latest.json").write_text('{"DCN": "dcn-1"}', encoding="utf-8")
    page = build_report(tmp_path, settings_of(tmp_path), tmp_path / "report.html").read_text(encoding="utf-8")
    text = Outline(page).text["ranking"]
    assert "DCN: 90 test impressions, error .367." in text  # |.3 - 1| / 3 + |.2 - 0| * 2 / 3
    assert "predicted probability" in text


def test_verdicts_of_nothing_and_of_references_alone() -> None:
    assert verdicts(frame(figures_of("retrieval", "all", {"PRECISE": 0.1})).head(0)) == []
    assert "no PRECISE model was evaluated" in verdicts(frame(figures_of("retrieval", "all", {"item_knn": 0.1})))[0]
    assert "no reference was evaluated" in verdicts(frame(figures_of("retrieval", "all", {"PRECISE": 0.1})))[0]


@settings(deadline=None, max_examples=40)
@given(ours=st.floats(1e-4, 1), other=st.floats(1e-4, 1))
def test_win_and_loss_follow_the_values(ours: float, other: float) -> None:
    text = verdicts(frame(figures_of("retrieval", "all", {"PRECISE-UT": ours, "item_knn": other})))[0]
    verb = "beats" if ours > other else "loses to" if ours < other else "ties with"
    assert text.startswith(f"PRECISE-UT {verb} item-kNN")
    assert ("overlap" in text) == (ours != other and ours * 0.9 <= other * 1.1 and other * 0.9 <= ours * 1.1)


@settings(deadline=None)
@given(st.floats(1e-4, 999))
def test_a_figure_keeps_three_digits(value: float) -> None:
    assert float(formats.figure(value)) == pytest.approx(value, rel=0.006)


def test_figures_read_well() -> None:
    written = [formats.figure(value) for value in (0.292, 0.0444, 0.73, 1.2, 12345.0, 0.0, None, float("nan"))]
    assert written == [".292", ".0444", ".730", "1.20", "12,300", "0", "–", "–"]
    shares = [formats.percent(share) for share in (0, 0.00001, 0.125, 0.99999, 1)]
    assert shares == ["0 %", "< 0.1 %", "12.5 %", "> 99.9 %", "100 %"]
    assert [formats.duration(s) for s in (0.42, 59.6, 185, 4320)] == ["0.4 s", "1 min 00 s", "3 min 05 s", "1 h 12 min"]
    assert formats.against(0.13951, 0.13953) == ".13951 against .13953"


def test_a_metric_log_without_steps_or_with_strange_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"loss": 2.0}\n[1]\n\n{"loss": NaN, "validation": {"ndcg_at_50": 0.1}}\n{"lo')
    log = read_metric_log(path.read_text())
    assert log["step"].tolist() == [1, 2]
    assert log["validation_ndcg_at_50"].dropna().tolist() == [0.1]
    assert read_metric_log("").empty


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_label_can_be_drawn(labels: list[str]) -> None:
    drawing = plots.bars("p", labels, [float(n) for n in range(len(labels))], "d")
    assert drawing.count("<svg") == 1 and "<script" not in drawing
