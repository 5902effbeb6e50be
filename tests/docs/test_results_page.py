"""What an experiment wrote is what the page shows; nothing there is typed by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import alignment_page, lists_page, results_page
from benchmarks.training_table import model_sizes
from precise_core.config import load_config
from precise_core.settings import Settings
from tests.night import ROOT


def figure(
    system: str, mean: float | None, group: str = "all", user_filter: str = "all", **changes: Any
) -> dict[str, Any]:
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


def page_of(made: Mapping[str, Any], name: str = "beauty") -> str:
    """The experiment's own page."""
    return results_page.render({name: made})[f"results/{name}.md"]


def test_a_page_has_facts_tables_signs_and_training() -> None:
    lines = page_of(experiment()).splitlines()
    assert "# Table X" in lines
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
    model = "id 64 + text 64 (moe); sasrec, 2 layers"  # as conf/experiments/beauty.yaml says
    assert f"| PRECISE-UT | {model} | `all` | 2 | 7 | 1,234 | 988 | 0.0456 |" in lines


def test_every_k_that_was_measured_stands_in_the_main_table() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"] += [figure("SASRec", 0.01, k=5), figure("SASRec", 0.02, metric="ndcg", k=20)]
    head = "| system | Recall@5 | Recall@10 | Recall@50 | NDCG@10 | NDCG@20 | NDCG@50 |"
    assert head in page_of(made).splitlines()


def test_a_run_that_was_cut_off_and_a_reading_that_is_missing_are_named() -> None:
    made = experiment() | {"to_come": ["BERT4Rec"]}
    assert "- cut off: BERT4Rec not trained yet" in page_of(made)
    figures = [row for row in made["tasks"]["all"]["figures"] if row["user_filter"] == "all"]
    made = experiment()
    old = made | {"tasks": {"all": {"figures": figures, "differences": []}}}
    assert "- not measured with seen items filtered (`new`)" in page_of(old)
    assert "not measured with seen" not in page_of(made)
    assert "not measured with seen" not in page_of(old | {"split": "time"})


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
    lines = results_page.render({"beauty": made, "toys": experiment()})["results.md"].splitlines()
    start = lines.index("## At a glance")
    first = lines.index("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |", start) + 1
    assert lines[first : first + 2] == [  # the second has no NDCG@50
        "| [Table X](results/beauty.md) | `all` | SASRec | PRECISE-UT | 0.0400 ± 0.0012 → 0.0600 ± 0.0012 ▲ | "
        " →  | 0.0300 ± 0.0012 → 0.0500 ± 0.0012 | item_knn 0.0400 |",
        "",
    ]
    for row in [row for row in made["tasks"]["all"]["figures"] if row["user_filter"] == "all"]:
        made["tasks"]["all"]["figures"].append({**row, "user_filter": "new"})
    seen_filtered = results_page.render({"beauty": made})["results.md"].splitlines()[first + 1]
    assert seen_filtered.startswith("| [Table X](results/beauty.md) | `all`, seen filtered | SASRec | PRECISE-UT |")
    assert "At a glance" not in results_page.render({"beauty": experiment()})["results.md"]
    named = results_page.render({"beauty": made | {"title": "Table V, length: 50 (all)"}})["results.md"]
    assert "| [Table V, length: 50 (all)](results/beauty.md) |" in named


def test_seen_items_are_shown_where_some_are_unseen() -> None:
    made = experiment()
    assert "seen Recall@10" not in page_of(made)
    made["tasks"]["all"]["figures"].append(figure("PRECISE-UT", 0.001, "unseen", users=5))
    page = page_of(made)
    assert "| system | seen Recall@10 (1,234) | rare Recall@10 (77) | unseen Recall@10 (5) |" in page


def with_oracle(oracle: float | None, popular: float | None = 0.1) -> dict[str, Any]:
    """PRECISE-UT has .3 on both metrics of the gap, SASRec .05; `popular` and `oracle` stand beside them."""
    made = experiment()
    for metric, k in (("ndcg", 50), ("recall", 10)):
        values = {"SASRec": 0.05, "PRECISE-UT": 0.3, "item_knn": 0.2, "most_popular": popular, "oracle": oracle}
        made["tasks"]["all"]["figures"] += [figure(name, value, metric=metric, k=k) for name, value in values.items()]
    return made


def test_trained_systems_close_a_share_of_the_gap_to_the_oracle() -> None:
    made = with_oracle(0.35)
    made["tasks"]["all"]["figures"].append(figure("oracle", 0.5, user_filter="new"))
    made["tasks"]["all"]["figures"].append(figure("most_popular", 0.1, user_filter="new"))
    lines = page_of(made).splitlines()
    start = lines.index("Share of the gap between `most_popular` and the oracle that is closed:")
    assert lines[start + 1 : start + 8] == [  # no simple reference, no oracle
        "",
        "| system | NDCG@50 | Recall@10 |",
        "| --- | ---: | ---: |",
        "| SASRec | -20.0 % | -20.0 % |",
        "| PRECISE-UT | 80.0 % | 80.0 % |",
        "| PRECISE-ID |  | -23.6 % |",
        "",
    ]
    assert sum(line.startswith("Share of the gap") for line in lines) == 1  # of the filter `all` alone


@pytest.mark.parametrize(
    "made",
    [
        experiment(),
        with_oracle(0.1),  # equal to most_popular
        with_oracle(0.08),  # below it
        with_oracle(None),
        with_oracle(float("nan")),
        with_oracle(0.35, popular=None),
    ],
)
def test_without_a_gap_no_share_of_it_is_shown(made: dict[str, Any]) -> None:
    page = page_of(made)
    assert "Share of the gap between" not in page and "nan" not in page and "inf" not in page


def test_a_gap_in_one_metric_is_one_column() -> None:
    made = with_oracle(0.35)
    made["tasks"]["all"]["figures"].append(figure("oracle", 0.1))  # the last figure of a key counts: no gap in recall
    lines = page_of(made).splitlines()
    start = lines.index("Share of the gap between `most_popular` and the oracle that is closed:")
    assert lines[start + 2] == "| system | NDCG@50 |" and lines[start + 5] == "| PRECISE-UT | 80.0 % |"


def test_novelty_and_coverage_stand_beside_accuracy_without_a_sign() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"] += [
        figure("SASRec", 3.456, metric="novelty", deviation=0.123),
        figure("PRECISE-UT", 4.0, metric="novelty", seeds=1),
        figure("PRECISE-ID", float("nan"), metric="novelty"),
        figure("SASRec", 0.4, metric="coverage", k=10),
        figure("SASRec", 0.9, metric="coverage", k=50),
        figure("SASRec", 0.99, "hot", metric="coverage", k=100),  # of a group: not shown
    ]
    made["tasks"]["all"]["differences"].append(difference("PRECISE-UT", 0.5, 0.001, metric="novelty"))
    lines = page_of(made).splitlines()
    start = lines.index("| system | Recall@10 | Recall@50 | NDCG@10 | NDCG@50 | novelty@10, bits | coverage@50 |")
    assert lines[start + 2 : start + 6] == [
        "| SASRec | 0.0400 ± 0.0012 |  |  |  | 3.46 ± 0.12 | 0.9000 ± 0.0012 |",
        "| PRECISE-UT | 0.0600 ± 0.0012 ▲ |  |  |  | 4.00 |  |",
        "| PRECISE-ID | 0.0410 ± 0.0012 |  |  |  |  |  |",
        "| item_knn | 0.0500 ▼ |  |  |  |  |  |",
    ]
    # The filter `new` has neither, so it has no such columns.
    start = lines.index("Task `all`, user filter `new`, 1,234 users:")
    assert lines[start + 2] == "| system | Recall@10 | Recall@50 | NDCG@10 | NDCG@50 |"


def test_groups_have_the_p_values_of_their_differences() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"] += [figure("PRECISE-ID", 0.04, "rare"), figure("item_knn", 0.04, "rare")]
    made["tasks"]["all"]["figures"].append(figure("PRECISE-UT", 0.02, "hot"))  # a group without a difference
    made["tasks"]["all"]["differences"] += [
        difference("PRECISE-ID", 0.01, 0.0004, item_group="rare"),
        difference("item_knn", float("nan"), float("nan"), item_group="rare"),
    ]
    lines = page_of(made).splitlines()
    start = lines.index("Difference to SASRec by group of items, p alone:")
    assert lines[start + 2 : start + 7] == [
        "| system | hot Recall@10 | rare Recall@10 |",
        "| --- | ---: | ---: |",
        "| PRECISE-UT |  | p .010 |",
        "| PRECISE-ID |  | p < .001 |",
        "",
    ]
    made["tasks"]["all"]["differences"] = []
    assert "p alone" not in page_of(made)


def test_the_table_of_trainings_says_how_large_a_model_is() -> None:
    made = experiment()
    made["trained"] = dict.fromkeys(["PRECISE-UT, late fusion", "SASRec", "gone"], made["trained"]["SASRec"])
    lines = page_of(made).splitlines()
    first = lines.index("Training (seconds with validation, sequences/s without):") + 2
    late = "id 128 + text 128 (moe), late fusion; sasrec, 2 layers, for each half"
    assert lines[first : first + 5] == [
        "| system | model | task | seed | epoch kept | seconds | sequences/s | validation NDCG@50 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        f"| PRECISE-UT, late fusion | {late} | `all` | 1 | 7 | 1,234 | 988 | 0.0456 |",
        "| SASRec | id 128; sasrec, 2 layers | `all` | 1 | 7 | 1,234 | 988 | 0.0456 |",
        "| gone |  | `all` | 1 | 7 | 1,234 | 988 | 0.0456 |",  # the file does not know it any more
    ]


def test_models_of_every_kind_are_described() -> None:
    recall = load_config(ROOT / "conf/experiments/recall_synthetic.yaml", Settings)
    sizes = model_sizes(recall)
    assert sizes["DSSM"] == "id 128; dssm, 1 layer"
    assert sizes["LightGCN"] == "graph of users and items; width 64, 3 layers"
    sizes = model_sizes(load_config(ROOT / "conf/experiments/fusion_titles.yaml", Settings))
    assert sizes["PRECISE-LLM"] == "text 128; transformer, 2 layers"
    assert sizes["PRECISE-Pool"] == "id 64 + text 64 (pool); transformer, 2 layers"


@pytest.mark.parametrize("name", ["no such file", "fusion_titles"])
def test_without_its_configuration_the_table_of_trainings_has_no_models(name: str) -> None:
    made = experiment()
    made["trained"] = {"SASRec": made["trained"]["SASRec"]}  # which fusion_titles does not have
    lines = page_of(made, name).splitlines()
    assert "| system | task | seed | epoch kept | seconds | sequences/s | validation NDCG@50 |" in lines
    assert "| SASRec | `all` | 1 | 7 | 1,234 | 988 | 0.0456 |" in lines


def test_sasrec_is_everywhere_what_the_header_says() -> None:
    for file in sorted((ROOT / "conf" / "experiments").glob("*.yaml")):
        settings = load_config(file, Settings)
        for name in (name for name in settings.experiment.systems if name.startswith("SASRec")):
            model = settings.of_system(name).model
            is_amazon = settings.source.kind.startswith("amazon")
            kind = "sasrec" if is_amazon and not name.endswith("pre-norm") else "transformer"
            assert (model.fusion.mode, model.encoder.kind) == ("id", kind), f"{file.name}: {name}"
        if "SASRec, pre-norm" in settings.experiment.systems:  # a gain over SASRec is not one of blocks
            for name in (name for name in settings.experiment.systems if name.startswith("PRECISE")):
                kind = "transformer" if name.endswith("paper's loss") else "sasrec"
                assert settings.of_system(name).model.encoder.kind == kind, f"{file.name}: {name}"


def test_a_system_that_was_not_asked_is_named_with_the_reason() -> None:
    notes = [{"system": name, "task": "all", "why": "no model of it"} for name in ("PRECISE", "PRECISE-TT")]
    page = page_of(experiment() | {"not_asked": notes})
    assert "\n- task `all` is not asked of PRECISE, PRECISE-TT: no model of it\n" in page
    assert "not asked" not in page_of(experiment())


def test_a_figure_without_a_value_is_an_empty_cell() -> None:
    made = experiment()
    made["tasks"]["all"]["figures"][2]["mean"] = float("nan")
    made["tasks"]["all"]["differences"][1] |= {"difference": float("nan"), "p_value": float("nan")}
    assert "nan" not in page_of(made)


def test_without_experiments_the_page_says_so(tmp_path: Path) -> None:
    page = results_page.render(results_page.read_experiments(tmp_path / "none"))["results.md"]
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


def test_the_pages_in_the_repository_are_what_the_results_say() -> None:
    files = [results_page.DOCS / "results.md", *(results_page.DOCS / "results").glob("*.md")]
    written = {file.relative_to(results_page.DOCS).as_posix(): file.read_text(encoding="utf-8") for file in files}
    runs = (lists_page.read_runs(), alignment_page.read_runs())
    made = results_page.render(results_page.read_experiments(), results_page.read_rankings(), *runs)
    assert written.keys() == made.keys()
    assert [path for path in made if written[path] != made[path]] == [], "run `make results`"


def test_the_overview_has_the_first_table_of_every_experiment() -> None:
    overview = results_page.render({"beauty": experiment(), "toys": experiment()})["results.md"]
    assert overview.count("Task `all`, user filter `new`, 1,234 users:") == 2  # leave-one-out: seen items filtered
    assert "user filter `all`, " not in overview and "p alone" not in overview
    assert overview.count("### [Table X](results/") == 2


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
