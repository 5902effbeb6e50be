"""What the report says about the published lists: the table it opens with, a sentence a task, sources, examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from rich.console import Console
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

import schemas
from precise_core.artefacts import LIST_RANKERS, put_rankers_in_use
from precise_core.recommendations.names import ALL_LISTS, LIST_RANKER_FILE
from precise_core.report.page import build_report, print_summary
from tests.browser import asked_for, console_of, is_too_wide, running_browser, show_at
from tests.fake_warehouse import all_metrics, list_figures, put, put_whole_night, recommendations, settings_of
from tests.report.test_report import Outline

GAINS = {
    ("all", "all"): (0.0061, 0.0021, 0.0102),
    ("all", "new"): (0.0004, -0.0011, 0.0019),
    ("all", "repeat"): (0.0132, 0.0093, 0.0171),
    ("share", "all"): (-0.0210, -0.0301, -0.0119),
    ("share", "new"): (-0.0010, -0.0031, 0.0011),
}
WORTH = {"with": 0.21, "without": 0.18, "ci_low": 0.01, "ci_high": 0.05, "p_value": 0.003, "lists": 70.0}
LOSS = {"gain": -0.03, "ci_low": -0.05, "ci_high": -0.01}
REFERENCES = {"tifu_knn": 0.047, "own_decayed": 0.0391, "most_popular_7d": 0.0101}


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("warehouse")
    put_whole_night(root)
    put(root, schemas.RECOMMENDATIONS, list(recommendations()))
    put(root, schemas.EVALUATION_METRICS, list_figures(GAINS, REFERENCES))
    put_rankers_in_use(root, {ALL_LISTS: "lists-1"}, LIST_RANKERS)
    figures = {"precise": {"all": {"all": WORTH | {"gain": 0.03}, "new": WORTH | LOSS}}}
    (root / LIST_RANKERS / "lists-1").mkdir()
    (root / LIST_RANKERS / "lists-1" / LIST_RANKER_FILE).write_text(json.dumps({"figures": figures}), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def page(warehouse: Path) -> str:
    return build_report(warehouse, settings_of(warehouse), warehouse / "report.html").read_text(encoding="utf-8")


def test_the_page_opens_with_the_lists_beside_the_best_reference(page: str) -> None:
    opening = page[: page.index("<nav")]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", opening)][1:]
    assert [" ".join(row) for row in rows] == [
        "all all items TIFU-KNN .0531 .0470 +.00610 .00210 to .0102 .012",
        "all new items TIFU-KNN .0474 .0470 +.000400 -.00110 to .00190 .012",
        "all repeats TIFU-KNN .0602 .0470 +.0132 .00930 to .0171 .012",
        "share all items TIFU-KNN .0260 .0470 -.0210 -.0301 to -.0119 .012",
        "share new items TIFU-KNN .0460 .0470 -.00100 -.00310 to .00110 .012",
    ]
    assert re.findall(r'class="number (\w+)"', opening) == ["win", "tie", "win", "loss", "tie"]
    assert opening.index("<table") < opening.index('<ul class="verdicts"')


def test_a_sentence_a_task_and_red_only_where_the_lists_lose(page: str) -> None:
    verdicts = re.findall(r'<li class="(\w+)">(.*?)</li>', page[: page.index("<nav")])
    assert verdicts == [
        (
            "win",
            "all: the published lists beat the best reference on all items (.0531 against TIFU-KNN .0470) and repeats "
            "(.0602 against TIFU-KNN .0470); they are level with it on new items (.0474 against TIFU-KNN .0470).",
        ),
        (
            "loss",
            "share: the published lists are level with the best reference on new items (.0460 against TIFU-KNN .0470); "
            "they lose to it on all items (.0260 against TIFU-KNN .0470).",
        ),
    ]
    below = page[page.index("<nav") :]
    assert "PRECISE-UT loses to" in below and 'class="loss"' not in below and 'class="number loss"' not in below


def test_then_what_precise_adds_the_sources_and_lists_with_reasons(page: str) -> None:
    assert page.index('id="precise"') < page.index('id="sources"') < page.index('id="examples"')
    text = Outline(page).text
    assert "Could not be built" not in page
    assert "PRECISE-UT" in text["precise"] and "TIFU-KNN" in text["precise"]
    assert "all all .210 .180 +.0300 .0100 to .0500 .003" in text["precise"]
    assert re.search(r"The model's jobs took \d+.* of the \d+.* that all jobs took", text["precise"])
    assert "U2I or U2I2I found 50 %, and nothing else found 8.3 %" in text["precise"]  # 6 and 1 of 12 places
    assert "history 91.7 %" in text["sources"] and "U2I 50 % alone 8.3 %" in text["sources"]
    for said in ("List new for all", "goes with Item 3", "List all for share", "taken 2 times before"):
        assert said in text["examples"], said
    assert "List new for share" not in text["examples"] and "because of" not in text["examples"]
    for system in ("published lists", "TIFU-KNN", "most popular (7 days)"):
        assert system in text["lists"], system
    assert "PRECISE" not in text["lists"]


def test_the_terminal_opens_with_the_same_table(warehouse: Path) -> None:
    target = StringIO()
    print_summary(warehouse, settings_of(warehouse), Console(file=target, width=160))
    printed = target.getvalue()
    assert printed.index("NDCG@50 of the published lists") < printed.index("retrieval, task all")
    assert "they lose to it on all items" in " ".join(printed.split()) and "loses to personal" not in printed


def test_figures_of_a_night_without_lists_are_shown_as_before(tmp_path: Path) -> None:
    """`evaluation_metrics` of an earlier version has neither the question nor the columns of a comparison."""
    columns = [name for name in schemas.EVALUATION_METRICS.column_names if name not in ("reference", "p_value")]
    schema = pa.schema([schemas.EVALUATION_METRICS.arrow_schema().field(name) for name in columns])
    rows = [{name: row.get(name) for name in columns} for row in all_metrics()]
    path = tmp_path / "tables" / "evaluation_metrics"
    write_deltalake(str(path), pa.Table.from_pylist(rows, schema=schema))
    page = build_report(tmp_path, settings_of(tmp_path), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Who wins where" in page and "PRECISE-UT loses to personal frequency" in page[: page.index("<nav")]
    assert "the published lists were not evaluated" in Outline(page).text["lists"]
    assert "Could not be built" not in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with running_browser() as started:
        yield started


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_the_table_is_on_the_first_screen_and_nothing_is_too_wide(
    browser: Chrome, warehouse: Path, width: int
) -> None:
    address = (warehouse / "report.html").as_uri()
    show_at(browser, width)
    browser.get(address)
    table = browser.find_element(By.CSS_SELECTOR, "table")
    assert table.is_displayed() and "TIFU-KNN" in table.text
    assert table.location["x"] >= 0 and table.location["y"] < 900
    assert not is_too_wide(browser)
    assert console_of(browser) == []
    assert asked_for(browser) == {address}
