"""`make results`: benchmarks/results/{experiments,ranking,lists,alignment}/*.json to docs/results.md and docs/results/.

Nothing is typed by hand.

Each file is what `jobs/run_experiment.py` wrote for one experiment, or `benchmarks.table_ix` for one warehouse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import alignment_page, lists_page, ranking_page
from benchmarks.markdown import table
from benchmarks.question_tables import Question, in_order
from benchmarks.recall_tables import recall_lines
from benchmarks.training_table import training_lines
from precise_core.config import load_config
from precise_core.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "experiments"
RANKING = ROOT / "benchmarks" / "results" / "ranking"
DOCS = ROOT / "docs"

Experiment = Mapping[str, Any]

FIELDS = ("name", "title", "data", "date", "machine", "code_version", "seeds", "reference", "split", "trained", "tasks")

_HEADER = """# Results

Generated from `benchmarks/results/experiments/*.json` and `benchmarks/results/ranking/*.json` by `make results`; do not
edit. This page has the first table of every experiment; its own page has the others: user filters, groups of items,
p-values, sizes and seconds, and the command that writes the file and then both pages.

How to read it: every system ranks the whole catalog for the same users; [evaluation](evaluation.md) says what a figure
means. Several seeds: mean ± standard deviation. ▲ = above the reference system, ▼ = below it, by a paired bootstrap
over users with p < .05; without a sign the difference may be chance. Groups limit the truth to items that are hot (the
most frequent), cold (all others), seen (with training events), rare (1 to 4 of them) or unseen (none). Their p-values
stand in a table of their own; where nothing differs, one in twenty is still below .05. The user filter `all` filters
nothing, `new` leaves out what the user had before, `repeat` ranks nothing else. Published leave-one-out figures are
of either kind: generative systems filter nothing, S3-Rec, eSASRec, HSTU, HLLM and LEARN filter seen items (here `new`).

Novelty, in bits, is high where the items of a list are known to few users; coverage is the share of the candidates that
are in anybody's list ([definitions](evaluation.md#truth)). More of either is not better by itself: they have no sign.

A synthetic world has an oracle, which ranks by the true preferences. The share of the gap that a system closes is
(system - `most_popular`) / (oracle - `most_popular`), in percent; the goal of this project is 80 %.

Systems of one name may differ in size from page to page. The table of trainings says how large each is, read from
its configuration file as it is today: `id 64 + text 64 (moe); transformer, 2 layers` = one encoder over both halves of
an item vector, 128 wide together, fused as `fusion.mode` says; `late fusion` = two encoders. "SASRec" on this page is
ids alone (`fusion.mode: id`). On Amazon it has blocks of kind `sasrec`, as PRECISE has beside it unless the table of
trainings says otherwise; "SASRec, pre-norm", and the SASRec of the synthetic worlds, have PRECISE's default kind,
`transformer`.
"""
_GLANCE = """The reference system, the trained system of best NDCG@50 beside it, and the best simple reference; nothing
is filtered unless the line says so. Which is best was read from these figures, so look at the p-values on its page.
"+ history" = blended with the user's own purchases. Systems that learnt the validation items too are left out."""
_NOTHING = "No experiment has been run yet: `make experiment` lists the names.\n"


def read_experiment(file: Path, fields: Sequence[str] = FIELDS) -> Experiment:
    """One experiment's file.

    Raises:
        ValueError: It is not a JSON object with the fields of an experiment.
    """
    try:
        experiment = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}: not JSON: {error}") from error
    if not isinstance(experiment, dict) or (missing := sorted(set(fields) - set(experiment))):
        found = f"lacks {missing}" if isinstance(experiment, dict) else f"is a {type(experiment).__name__}"
        raise ValueError(f"{file.name}: {found}; expected what jobs/run_experiment.py or benchmarks.table_ix writes")
    return experiment


def read_experiments(folder: Path = RESULTS) -> dict[str, Experiment]:
    """All experiments of a folder by the name of their file."""
    return {file.stem: read_experiment(file) for file in sorted(folder.glob("*.json"))}


def read_rankings(folder: Path | None = None) -> list[Experiment]:
    """All files of `benchmarks.table_ix` in a folder."""
    files = sorted((folder or RANKING).glob("*.json"))
    return [read_experiment(file, ranking_page.FIELDS) for file in files]


def render(
    experiments: Mapping[str, Experiment],
    rankings: Sequence[Experiment] = (),
    lists: Sequence[Experiment] = (),
    aligned: Sequence[Experiment] = (),
) -> dict[str, str]:
    """Markdown by path below docs: the overview, a page per experiment, Table IX of each warehouse, lists, spaces."""
    pages = {_path(name): _page(name, experiment) for name, experiment in experiments.items()}
    pages |= {_path(f"table_ix_{found['name']}"): "# " + ranking_page.section(found)[3:] for found in rankings}
    first = [line for name, experiment in experiments.items() for line in _first_table(name, experiment)]
    ranked = [f"- [Table IX: ranking on `{found['name']}`]({_path('table_ix_' + found['name'])})" for found in rankings]
    tables = ["## Experiments", "", *first] if first else [_NOTHING]
    if aligned:
        ranked.append(f"- [One space across retrains: yesterday's ranking on today's vectors]({alignment_page.PATH})")
        pages[alignment_page.PATH] = alignment_page.page(aligned)
    ranking = ["## Ranking", "", *ranked, ""] if ranked else []
    beside = ["## Lists", "", f"- [Published lists beside counting]({lists_page.PATH})", ""] if lists else []
    overview = "\n".join([_HEADER, *_at_a_glance(experiments), *tables, *ranking, *beside]).rstrip("\n") + "\n"
    if lists:
        pages[lists_page.PATH] = lists_page.page(lists)
    return {"results.md": overview, **pages}


def _path(name: str) -> str:
    return f"results/{name}.md"


def _link(name: str, experiment: Experiment) -> str:
    return f"[{_title(experiment)}]({_path(name)})"


def _first_table(name: str, experiment: Experiment) -> list[str]:
    """The first task; of a leave-one-out experiment with seen items filtered, where that was measured."""
    task = next(iter(experiment["tasks"]))
    measured = {figure["user_filter"] for figure in experiment["tasks"][task]["figures"]}
    reading = next(reading for reading in [*reversed(_readings(experiment)), *measured] if reading in measured)
    return [f"### {_link(name, experiment)}", "", *Question(experiment, task, reading).first_table()]


def _at_a_glance(experiments: Mapping[str, Experiment]) -> list[str]:
    """For every experiment and task: the reference system, the best of the others, the best simple reference."""
    rows: list[list[str]] = []
    for name, experiment in experiments.items():
        left_out, title = _learns_validation(name), _link(name, experiment)
        questions = [
            Question(experiment, task, reading) for task in experiment["tasks"] for reading in _readings(experiment)
        ]
        rows += filter(None, (question.at_a_glance(title, left_out) for question in questions))
    metrics = ["Recall@10", "NDCG@10", "NDCG@50"]
    heads = ["experiment", "task", "reference system", "best other", *metrics, "best simple, NDCG@50"]
    return ["## At a glance", "", _GLANCE, "", *table(heads, rows, names=4), ""] if rows else []


def _readings(experiment: Experiment) -> list[str]:
    """The user filters of the first table: leave-one-out is published unfiltered and with seen items filtered."""
    return ["all", "new"] if experiment["split"] == "leave_one_out" else ["all"]


def _missing_readings(experiment: Experiment) -> list[str]:
    measured = {figure["user_filter"] for task in experiment["tasks"].values() for figure in task["figures"]}
    is_missing = not measured.issuperset(_readings(experiment))
    return ["- not measured with seen items filtered (`new`): run before that reading existed"] if is_missing else []


def _title(experiment: Experiment) -> str:
    return str(experiment["title"] or experiment["name"])


def _learns_validation(name: str) -> set[str]:
    """Systems that are trained on more than the others."""
    systems = _configuration(name).get("experiment", {}).get("systems", {})
    key = "train_includes_validation"
    return {system for system, of in systems.items() if of.get("changes", {}).get("windows", {}).get(key)}


def _configuration(name: str, root: Path = ROOT) -> Mapping[str, Any]:
    """What the experiment's file says; empty where there is none."""
    file = _configuration_file(name, root)
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))) if file else {}


def _configuration_file(name: str, root: Path = ROOT) -> Path | None:
    files = [root / "conf" / part / f"{name}.yaml" for part in ("experiments", "")]
    return next(filter(Path.is_file, files), None)


def _settings(name: str) -> Settings | None:
    """The whole configuration of an experiment, defaults included; None where it has no file."""
    file = _configuration_file(name)
    return load_config(file, Settings) if file else None


def command(name: str, root: Path = ROOT) -> str:
    """What repeats an experiment; with a folder where its source reads one."""
    source = _configuration(name, root).get("source", {})
    return f"make experiment NAME={name}" + (" DATA=<folder>" if "data" in source else "")


def main() -> None:
    experiments = read_experiments()
    rankings = read_rankings()
    for path, text in render(experiments, rankings, lists_page.read_runs(), alignment_page.read_runs()).items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")
    print(f"wrote docs/results.md: {len(experiments)} experiments, {len(rankings)} rankings")


def _page(name: str, experiment: Experiment) -> str:
    seeds = ", ".join(str(seed) for seed in experiment["seeds"])
    facts = [
        f"- command: `{command(name)}`",
        f"- data: {experiment['data']}",
        f"- split: `{experiment['split']}`; seeds: {seeds}; reference system: {experiment['reference']}",
        f"- {experiment['date']}, {experiment['machine']}, code {experiment['code_version']}",
        *_not_asked(experiment),
        *_missing_readings(experiment),
    ]
    parts = [f"# {_title(experiment)}", "", "[How to read it](../results.md)", "", *facts, ""]
    for task in experiment["tasks"]:
        for user_filter in in_order(figure["user_filter"] for figure in experiment["tasks"][task]["figures"]):
            parts += Question(experiment, task, user_filter).lines()
    parts += [*recall_lines(experiment), *training_lines(experiment["trained"], _settings(name))]
    return "\n".join(parts).rstrip("\n") + "\n"


def _not_asked(experiment: Experiment) -> list[str]:
    """Which systems have no figures (for a task, or none yet), and why."""
    if to_come := experiment.get("to_come"):
        return [f"- cut off: {', '.join(to_come)} not trained yet", *_not_asked({**experiment, "to_come": []})]
    systems: dict[tuple[str, str], list[str]] = {}
    for note in experiment.get("not_asked", ()):
        systems.setdefault((note["task"], note["why"]), []).append(note["system"])
    return [f"- task `{task}` is not asked of {', '.join(names)}: {why}" for (task, why), names in systems.items()]


if __name__ == "__main__":
    main()
