"""What an experiment wrote is what the page shows; nothing there is typed by hand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results_page
from tests.night import ROOT


def figure(system: str, mean: float, group: str = "all", user_filter: str = "all", **changes: Any) -> dict[str, Any]:
    key = {"system": system, "user_filter": user_filter, "item_group": group, "metric": "recall", "k": 10}
    return {**key, "mean": mean, "deviation": 0.0012, "seeds": 2, "users": 1234, **changes}


def difference(system: str, value: float, p_value: float, **changes: Any) -> dict[str, Any]:
    key = {"system": system, "user_filter": "all", "item_group": "all", "metric": "recall", "k": 10}
    limits = {"ci_low": value - 0.01, "ci_high": value + 0.01}
    return {**key, "reference": "SASRec", "difference": value, **limits, "p_value": p_value, **changes}


def experiment() -> dict[str, Any]:
    def training(seed: int) -> dict[str, Any]:
        shown = {"seed": seed, "task": "all", "seconds": 1234.4, "sequences_per_second": 987.6, "best_epoch": 7}
        return {"model_version": "v", **shown, "validation": {"validation_ndcg_at_50": 0.0456}}

    figures = [
        figure("item_knn", 0.05, deviation=float("nan"), seeds=1),
        figure("SASRec", 0.04),
        figure("PRECISE-UT", 0.06),
        figure("PRECISE-ID", 0.041),
        figure("PRECISE-UT", 0.03, "rare", users=77),
        figure("PRECISE-UT", 0.031, "seen", users=1234),
        figure("PRECISE-UT", 0.02, user_filter="new"),
        figure("PRECISE-UT", 0.07, user_filter="repeat", users=99),
    ]
    differences = [
        difference("item_knn", -0.02, 0.01),
        difference("PRECISE-UT", 0.02, 0.0004),
        difference("PRECISE-ID", 0.001, 0.3),
        difference("PRECISE-UT", 0.03, 0.01, item_group="rare"),
        difference("PRECISE-UT", 0.01, 0.02, reference="item_knn"),
    ]
    return {
        **{"name": "x", "title": "Table X", "data": "made up", "date": "2026-01-02", "machine": "2 cores"},
        **{"code_version": "1.2", "seeds": [1, 2], "reference": "SASRec", "split": "leave_one_out"},
        "trained": {"SASRec": [training(1)], "PRECISE-UT": [training(1), training(2)], "PRECISE-ID": [training(1)]},
        "tasks": {"all": {"figures": figures, "differences": differences}},
    }


def test_a_section_has_facts_tables_signs_and_training() -> None:
    page = results_page.render({"beauty": experiment()})
    lines = page.splitlines()
    assert "## Table X" in lines
    assert "- command: `make experiment NAME=beauty DATA=<folder>`" in lines
    assert "- split: `leave_one_out`; seeds: 1, 2; reference system: SASRec" in lines
    assert "- 2026-01-02, 2 cores, code 1.2" in lines
    assert "Task `all`, user filter `all`, 1,234 users:" in lines
    start = lines.index("| system | Recall@10 | Recall@50 | NDCG@10 | NDCG@50 |")
    assert lines[start + 2 : start + 6] == [  # models in the order of the file, then references
        "| SASRec | 0.0400 ± 0.0012 |  |  |  |",
        "| PRECISE-UT | 0.0600 ± 0.0012 ▲ |  |  |  |",
        "| PRECISE-ID | 0.0410 ± 0.0012 |  |  |  |",
        "| item_knn | 0.0500 ▼ |  |  |  |",
    ]
    assert "| system | rare Recall@10 (77) |" in lines
    assert "| PRECISE-UT | 0.0300 ± 0.0012 ▲ |" in lines
    assert "| PRECISE-UT | +0.0200 (+50%) [+0.0100, +0.0300], p < .001 |  |  |  |" in lines
    assert "| PRECISE-ID | +0.0010 (+2%) [-0.0090, +0.0110], p .300 |  |  |  |" in lines
    other = lines.index("Difference to item_knn, its 95 % interval, and p:")
    assert lines[other + 4 : other + 6] == ["| PRECISE-UT | +0.0100 (+20%) [+0.0000, +0.0200], p .020 |  |  |  |", ""]
    assert "Task `all`, user filter `new`, 1,234 users:" in lines
    assert "Task `all`, user filter `repeat`, 99 users:" in lines
    assert "| PRECISE-UT | `all` | 2 | 7 | 1,234 | 988 | 0.0456 |" in lines


def test_the_page_begins_with_the_best_system_of_every_experiment() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"] += [
        figure("SASRec", 0.03, metric="ndcg", k=50),
        figure("PRECISE-UT", 0.05, metric="ndcg", k=50),
        figure("PRECISE-ID", 0.02, metric="ndcg", k=50),
        figure("oracle", 0.9, metric="ndcg", k=50),
        figure("item_knn", 0.04, metric="ndcg", k=50),
        figure("SASRec, validation item learnt", 0.8, metric="ndcg", k=50),
    ]
    made["trained"]["SASRec, validation item learnt"] = made["trained"]["SASRec"]
    lines = results_page.render({"beauty": made, "toys": experiment()}).splitlines()
    start = lines.index("## At a glance")
    first = lines.index("| --- | --- | --- | --- | ---: | ---: | ---: |", start) + 1
    assert lines[first : first + 2] == [  # the second has no NDCG@50
        "| [Table X](#table-x) | `all` | SASRec | PRECISE-UT | 0.0400 ± 0.0012 → 0.0600 ± 0.0012 ▲ | "
        "0.0300 ± 0.0012 → 0.0500 ± 0.0012 | item_knn 0.0400 |",
        "",
    ]
    assert "At a glance" not in results_page.render({"beauty": experiment()})
    named = results_page.render({"beauty": made | {"title": "Table V, length: 50 (all)"}})
    assert "| [Table V, length: 50 (all)](#table-v-length-50-all) |" in named


def test_seen_items_are_shown_where_some_are_unseen() -> None:
    made = experiment()
    assert "seen Recall@10" not in results_page.render({"beauty": made})
    made["tasks"]["all"]["figures"].append(figure("PRECISE-UT", 0.001, "unseen", users=5))
    page = results_page.render({"beauty": made})
    assert "| system | seen Recall@10 (1,234) | rare Recall@10 (77) | unseen Recall@10 (5) |" in page


def test_a_system_that_was_not_asked_is_named_with_the_reason() -> None:
    notes = [{"system": name, "task": "all", "why": "no model of it"} for name in ("PRECISE", "PRECISE-TT")]
    page = results_page.render({"beauty": experiment() | {"not_asked": notes}})
    assert "\n- task `all` is not asked of PRECISE, PRECISE-TT: no model of it\n" in page
    assert "not asked" not in results_page.render({"beauty": experiment()})


def test_a_figure_without_a_value_is_an_empty_cell() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"][2]["mean"] = float("nan")
    made["tasks"]["all"]["differences"][1] |= {"difference": float("nan"), "p_value": float("nan")}
    assert "nan" not in results_page.render({"beauty": made})


def test_without_experiments_the_page_says_so(tmp_path: Path) -> None:
    page = results_page.render(results_page.read_experiments(tmp_path / "none"))
    assert page.endswith("No experiment has been run yet: `make experiment` lists the names.\n")


def test_experiments_are_named_by_their_file(tmp_path: Path) -> None:
    (tmp_path / "toys.json").write_text(json.dumps(experiment()), encoding="utf-8")
    assert list(results_page.read_experiments(tmp_path)) == ["toys"]


@pytest.mark.parametrize(("text", "said"), [("{", "not JSON"), ("[]", "is a list"), ('{"name": "x"}', "lacks .*tasks")])
def test_a_file_that_is_no_experiment_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "beauty.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"beauty\.json: {said}"):
        results_page.read_experiment(file)


def test_the_command_names_a_folder_where_the_source_reads_one(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiments").mkdir(parents=True)
    (tmp_path / "conf" / "experiments" / "world.yaml").write_text("source: {kind: synthetic}", encoding="utf-8")
    (tmp_path / "conf" / "paper.yaml").write_text("source: {kind: amazon_sequences, data: x}", encoding="utf-8")
    assert results_page.command("world", tmp_path) == "make experiment NAME=world"
    assert results_page.command("paper", tmp_path) == "make experiment NAME=paper DATA=<folder>"


def test_the_page_in_the_repository_is_what_the_results_say() -> None:
    written = results_page.TARGET.read_text(encoding="utf-8")
    assert written == results_page.render(results_page.read_experiments(), results_page.read_rankings()), (
        "run `make results`"
    )


@pytest.mark.parametrize(("arguments", "said"), [([], "no name given"), (["NAME=beuty"], "no experiment 'beuty'")])
def test_make_experiment_lists_the_names(arguments: list[str], said: str) -> None:
    done = subprocess.run(["make", "experiment", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stdout
    assert {"paper", "beauty"} <= set(done.stdout.split())


def test_make_experiment_passes_name_and_folder_on() -> None:
    arguments = ["make", "--dry-run", "--assume-old=install", "experiment", "NAME=paper", "DATA=my folder"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--config conf/paper.yaml --data 'my folder'" in done.stdout
    assert "--results benchmarks/results/experiments/paper.json" in done.stdout
    assert "benchmarks.results_page" in done.stdout
