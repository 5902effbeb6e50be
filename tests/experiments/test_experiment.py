"""An experiment end to end on a small world: what it writes, what it does not repeat, and what it refuses."""

from __future__ import annotations

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from benchmarks.recall_tables import recall_lines
from precise_core.training.checkpoint import Checkpoint
from tests.night import copy_of

TINY: dict[str, Any] = {
    "name": "tiny",
    "as_of": "2024-01-15T00:00:00Z",
    "source": {
        "kind": "synthetic",
        "users": 60,
        "items": 60,
        "days": 20,
        "events_per_user": 24,
        "topics": 2,
        "share_rate": 0.05,
        "seed": 2,
        "impressions_per_user": 1,
    },
    "tasks": {
        "click_articles": {"scene": "articles", "action": "click"},
        "rare": {"scene": "videos", "action": "share"},  # one or three events per user: no two to train on
    },
    "spark": {"driver_memory": "2g", "shuffle_partitions": 2},
    "text": {"max_tokens": 8},
    "windows": {"length": 12, "stride": 12, "validation_days": 4, "validation_user_share": 0.3},
    "feed": {"reader": "arrow"},
    "model": {
        "fusion": {"id_width": 8, "token_width": 8, "num_experts": 2, "top_k": 1, "token_init": "random"},
        "encoder": {"layers": 1, "heads": 2, "ffn_width": 16, "max_length": 12},
        "head_width": 8,
    },
    "universal": {"epochs": 1, "batch_size": 16, "negatives": {"uniform": 16}, "tensorboard": False},
    "targeted": {"epochs": 1, "batch_size": 16, "negatives": {"uniform": 16}, "tensorboard": False},
    "evaluation": {"test_days": 4, "ks": [10], "bootstrap_samples": 100},
}
BY_ID = {"model": {"fusion": {"mode": "id"}}}
BY_TIME = {
    "title": "A tiny Table VII",
    "seeds": [1, 2],
    "tasks": ["all", "click_articles"],
    "reference": "SASRec",
    "also_against": ["PRECISE-TT", "item_knn", "SASRec, sum of seeds"],
    "systems": {
        "SASRec": {"changes": {**BY_ID, "windows": {"length": 8, "stride": 8}}},
        "PRECISE-UT": {"blend": {"weights": [0.0, 0.5], "days": [10.0, 40.0]}},
        "PRECISE": {"stage": "targeted"},
        "PRECISE-TT": {"stage": "targeted", "changes": {"targeted": {"warm_start": False}}},
        "late": {"changes": {"model": {"late_fusion": True}}, "text_weights": [1.0, 3.0]},
        "DSSM": {
            "stage": "task",
            "changes": {"model": {**BY_ID["model"], "encoder": {"kind": "dssm", "layers": 1}}},
        },
        "LightGCN": {"stage": "graph", "changes": {"lightgcn": {"width": 8, "epochs": 2, "layers": 1}}},
    },
    "sums": ["SASRec", "late, reweighted"],
    "recall": {"ours": ["PRECISE-UT"], "baseline": ["DSSM", "LightGCN"], "cold_events": 11, "cold_days": 10},
}
TARGETED = {"PRECISE", "PRECISE-TT"}


def run_experiment(folder: Path, experiment: dict[str, Any], **sections: Any) -> int:
    settings = {**deepcopy(TINY), **sections, "warehouse": str(folder / "warehouse"), "experiment": experiment}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    main = importlib.import_module("jobs.run_experiment").main
    return int(main(["--config", str(folder / "tiny.yaml"), "--results", str(folder / "results.json")]))


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


@pytest.fixture(scope="module")
def by_time(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert spark is not None  # the jobs find the running session
    folder = tmp_path_factory.mktemp("experiment")
    assert run_experiment(folder, BY_TIME) == 0
    return folder


def test_every_system_is_asked_every_question_with_every_seed(by_time: Path) -> None:
    found = results(by_time)
    assert (found["title"], found["seeds"], found["reference"]) == ("A tiny Table VII", [1, 2], "SASRec")
    for task in BY_TIME["tasks"]:
        figures = {
            (row["system"], row["user_filter"], row["item_group"], row["metric"]): row
            for row in found["tasks"][task]["figures"]
        }
        asked = set(BY_TIME["systems"]) - (TARGETED if task == "all" else set())
        for system in asked:
            for user_filter in ("all", "new", "repeat"):
                row = figures[system, user_filter, "all", "ndcg"]
                assert row["seeds"] == 2 and row["deviation"] >= 0 and 0 <= row["mean"] <= 1 and row["users"] > 0
        assert figures["most_popular", "all", "all", "ndcg"]["seeds"] == 1  # learns nothing: asked once
        compared = found["tasks"][task]["differences"]
        assert asked - {"SASRec"} <= {row["system"] for row in compared}
        # In this order, and only what was asked of the task.
        answered = {system for system, *_ in figures}
        references = [name for name in ("SASRec", *BY_TIME["also_against"]) if name in answered]
        assert list(dict.fromkeys(row["reference"] for row in compared)) == references
        for row in (row for row in compared if row["item_group"] == "all"):
            means = [
                figures[name, row["user_filter"], row["item_group"], row["metric"]]["mean"]
                for name in (row["system"], row["reference"])
            ]
            assert row["difference"] == pytest.approx(means[0] - means[1], abs=1e-9)
            assert row["ci_low"] <= row["difference"] <= row["ci_high"]


def test_a_targeted_system_never_answers_with_the_universal_model(by_time: Path) -> None:
    found = results(by_time)
    assert not TARGETED & {row["system"] for row in found["tasks"]["all"]["figures"]}
    assert [(note["system"], note["task"]) for note in found["not_asked"]] == [
        ("PRECISE", "all"),
        ("PRECISE-TT", "all"),
    ]
    rows = {name: figures_of(found, "click_articles", name) for name in ("PRECISE-UT", "PRECISE", "PRECISE-TT")}
    assert rows["PRECISE-UT"] != rows["PRECISE"] != rows["PRECISE-TT"] != rows["PRECISE-UT"]


def not_asked(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(note["system"], note["task"]) for note in found["not_asked"]]


def figures_of(found: dict[str, Any], task: str, system: str) -> list[float]:
    return [row["mean"] for row in found["tasks"][task]["figures"] if row["system"] == system]


def test_a_targeted_system_shares_the_universal_training_and_adds_one_per_task(by_time: Path) -> None:
    trained, checkpoints = results(by_time)["trained"], by_time / "warehouse" / "experiment" / "checkpoints"
    assert [(row["task"], row["seed"]) for row in trained["PRECISE-UT"]] == [("all", 1), ("all", 2)]
    for name in ("PRECISE", "PRECISE-TT"):
        assert [row["task"] for row in trained[name]] == ["all", "click_articles"] * 2
        assert trained[name][::2] == trained["PRECISE-UT"]
    for universal, warm, cold in zip(
        trained["PRECISE-UT"], trained["PRECISE"][1::2], trained["PRECISE-TT"][1::2], strict=True
    ):
        opened = Checkpoint.open(checkpoints / universal["model_version"]).manifest
        assert Checkpoint.open(checkpoints / warm["model_version"]).manifest.parent == universal["model_version"]
        assert Checkpoint.open(checkpoints / cold["model_version"]).manifest.parent == opened.parent
        assert warm["seconds"] > 0 and "validation_ndcg_at_50" in warm["validation"]


def test_the_blend_is_chosen_once_per_task_and_seed_and_asked_beside_its_system(by_time: Path) -> None:
    found = results(by_time)
    assert [(row["system"], row["task"], row["seed"]) for row in found["blends"]] == [
        ("PRECISE-UT", task, seed) for seed in (1, 2) for task in BY_TIME["tasks"]
    ]
    for row in found["blends"]:
        assert row["weight"] in (0.0, 0.5) and row["days"] in (10.0, 40.0) and row["validation_ndcg_at_50"] > 0
    for task in BY_TIME["tasks"]:
        assert "PRECISE-UT + history" in {row["system"] for row in found["tasks"][task]["figures"]}


def test_weights_of_the_halves_are_chosen_by_seed_and_sums_are_asked_once_for_all_seeds(by_time: Path) -> None:
    found = results(by_time)
    assert [(row["system"], row["task"], row["seed"]) for row in found["text_weights"]] == [
        ("late", task, seed) for seed in (1, 2) for task in BY_TIME["tasks"]
    ]
    assert all(row["text_weight"] in (1.0, 3.0) and row["validation_ndcg_at_50"] > 0 for row in found["text_weights"])
    for task in BY_TIME["tasks"]:
        seeds = {row["system"]: row["seeds"] for row in found["tasks"][task]["figures"]}
        assert (seeds["late, reweighted"], seeds["late, reweighted, sum of seeds"]) == (2, 1)
        assert seeds["SASRec, sum of seeds"] == 1 and "late, sum of seeds" not in seeds
        compared = {(row["system"], row["reference"]) for row in found["tasks"][task]["differences"]}
        assert ("late, reweighted, sum of seeds", "SASRec, sum of seeds") in compared  # an equal ensemble


def test_the_baselines_of_recall_are_trained_for_each_task_and_asked_like_any_system(by_time: Path) -> None:
    trained = results(by_time)["trained"]
    for name in ("DSSM", "LightGCN"):
        assert [(row["task"], row["seed"]) for row in trained[name]] == [
            (task, seed) for seed in (1, 2) for task in BY_TIME["tasks"]
        ]
        assert all("validation_ndcg_at_50" in row["validation"] for row in trained[name])
    assert {row["sequences_per_second"] for row in trained["LightGCN"]} == {None}


def test_recall_sources_are_compared_for_all_and_for_cold_start_users(by_time: Path) -> None:
    for task in BY_TIME["tasks"]:
        table = results(by_time)["recall"][task]
        users = {}
        for kind, found in table.items():
            figures = {(row["system"], row["metric"], row["k"]): row for row in found["figures"]}
            sources = {"DSSM", "LightGCN", "PRECISE-UT U2I", "PRECISE-UT U2I2I", "baseline"}
            assert {system for system, *_ in figures} == sources | {
                f"baseline + {source}" for source in sources if source.startswith("PRECISE")
            }
            assert {row["reference"] for row in found["differences"]} == {"baseline"}
            assert figures["baseline", "hit_rate", 10]["mean"] > 0
            users[kind] = figures["baseline", "hit_rate", 10]["users"]
        assert 0 < users["cold-start users"] <= users["all users"]
        if task == "all":  # about twelve events in the ten days: some users have fewer than eleven
            assert users["cold-start users"] < users["all users"]
    lines = "\n".join(recall_lines(results(by_time)))
    assert lines.count("| baseline + PRECISE-UT U2I2I |") == len(BY_TIME["tasks"]) and "cold-start users, @10" in lines


def test_a_second_call_trains_nothing_again(by_time: Path) -> None:
    before, checkpoints = results(by_time), by_time / "warehouse" / "experiment" / "checkpoints"
    files = {file: file.stat().st_mtime_ns for file in checkpoints.rglob("*") if file.is_file()}
    assert run_experiment(by_time, BY_TIME) == 0
    assert {file: file.stat().st_mtime_ns for file in checkpoints.rglob("*") if file.is_file()} == files
    after = results(by_time)
    for part in ("trained", "tasks", "recall"):
        assert after[part] == before[part]


def test_a_task_with_nothing_to_learn_from_is_asked_of_the_universal_system_alone(
    by_time: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of(by_time / "warehouse", tmp_path / "warehouse")
    systems = {
        "PRECISE": {"stage": "targeted"},
        "PRECISE-TT": {"stage": "targeted", "changes": {"targeted": {"warm_start": False}}},
        "PRECISE-UT": {},
        "HSTU": {"changes": {"model": {**BY_ID["model"], "encoder": {"kind": "hstu", "ffn_width": None}}}},
    }
    three = {"tasks": ["rare"], "reference": "PRECISE", "systems": systems}
    split = {**TINY["windows"], "split": "leave_one_out", "max_targets": 1}
    assert run_experiment(tmp_path, three, windows=split) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "build_windows: done" in out and "ingest: done" not in out  # the split is new, the source is not
    assert "rare: not asked of PRECISE: it has no model of it: " in out
    found = results(tmp_path)
    assert [row["task"] for row in found["trained"]["PRECISE"]] == ["all"] and found["split"] == "leave_one_out"
    assert {row["user_filter"] for row in found["tasks"]["rare"]["figures"]} == {"all", "new"}  # both are published
    assert found["to_come"] == []
    asked = {row["system"] for row in found["tasks"]["rare"]["figures"]}
    assert {"PRECISE-UT", "most_popular"} <= asked and not TARGETED & asked
    assert {"HSTU", "HSTU, asked at the target's time"} <= asked  # what reads times is asked both ways
    assert [row["task"] for row in found["trained"]["HSTU"]] == ["all"]
    assert found["tasks"]["rare"]["differences"] == []  # to a system that was not asked
    assert [(note["system"], note["task"]) for note in found["not_asked"]] == [
        ("PRECISE", "rare"),
        ("PRECISE-TT", "rare"),
    ]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (
            {"reference": "A", "systems": {"A": {"changes": {"source": {"users": 5}}}}},
            "changes: ['source'] would ask another question; systems may differ in ('model', 'universal', 'targeted',",
        ),
        (
            {"reference": "A", "tasks": ["all", "rare"], "systems": {"A": {"stage": "targeted"}}},
            "reference 'A' has stage targeted, which is not asked of the task `all`",
        ),
        ({"reference": "B", "systems": {"A": {}}}, "reference 'B' is not one of the systems ['A']"),
        (
            {"reference": "A", "also_against": ["item_knn", "A"], "systems": {"A": {}}},
            "also_against: ['item_knn', 'A'] repeats a name, or the reference",
        ),
        (
            {"reference": "A", "also_against": ["item_knn", "A + history"], "systems": {"A": {}}},
            "also_against: ['A + history'] are none of the systems and references ['A', 'most_popular',",
        ),
        (
            {"reference": "A", "systems": {"A": {"stage": "targeted"}}},
            "systems ['A'] have stage targeted, and tasks names no task but `all`",
        ),
        ({"reference": "A", "systems": {}}, "experiment.systems is empty; name at least one system"),
        (
            {"reference": "A", "systems": {"A": {}}, "recall": {"ours": ["A"], "baseline": ["B"]}},
            "recall: ['B'] are none of the systems ['A']",
        ),
        (
            {"reference": "A", "systems": {"A": {"stage": "graph"}}, "recall": {"ours": ["A"], "baseline": ["A"]}},
            "recall.ours: ['A'] are of stage graph",
        ),
        (
            {"reference": "A", "systems": {"A": {"text_weights": [1.0, 2.0]}}},
            "experiment.systems.A.text_weights: needs model.late_fusion, an encoder that does not read times",
        ),
        (
            {"reference": "A", "systems": {"A": {}}, "sums": ["A"]},
            "sums: there is one seed, 17; name more, or no sums",
        ),
        (
            {"reference": "A", "seeds": [1, 2], "systems": {"A": {}}, "sums": ["A, reweighted"]},
            "sums: ['A, reweighted'] are none of the systems ['A']",
        ),
        (
            {"reference": "A", "systems": {"A": {}}, "recall": {"ours": ["A"]}},
            "ours needs a baseline to add to",
        ),
    ],
)
def test_impossible_experiments_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], experiment: dict[str, Any], message: str
) -> None:
    assert run_experiment(tmp_path, experiment) == 2
    assert message in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "warehouse").exists()


def test_a_blend_needs_a_test_period(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blended = {"reference": "A", "systems": {"A": {"blend": {"weights": [1.0]}}}}
    assert run_experiment(tmp_path, blended, windows={**TINY["windows"], "split": "leave_one_out"}) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "experiment.systems.A.blend: needs windows.split: time to choose on" in out


def test_a_graph_needs_a_test_period(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = {"reference": "A", "systems": {"A": {"stage": "graph"}}}
    assert run_experiment(tmp_path, graph, windows={**TINY["windows"], "split": "leave_one_out"}) == 2
    assert "stage graph needs windows.split: time" in " ".join(capsys.readouterr().out.split())
