"""The sections about the published lists: figures beside every reference, what PRECISE adds, sources, example users."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from precise_core.config.tasks import ALL_TASK
from precise_core.evaluation.names import NDCG_GAIN, RECOMMENDATIONS
from precise_core.recommendations.names import U2I, U2I2I
from precise_core.report import formats
from precise_core.report import verdicts as v
from precise_core.report.blocks import Block, Cell, Grid, Listing, Person, Skip, Text
from precise_core.report.data import Example, Night
from precise_core.report.lists import COUNTED
from precise_core.report.model_sections import figure_blocks, figures_of
from schemas import RECOMMENDATIONS as RECOMMENDATIONS_TABLE
from schemas import columns as c

_HISTORY, _CANDIDATES = 10, 8  # items shown of an example user
# What a night would not do without a model of sequences.
_MODEL_JOBS = (
    "embed_tokens", "build_sequences", "build_windows", "train_universal", "train_targeted", "embed_items",
    "embed_users", "build_index", "publish_models",
)  # fmt: skip
_NOT_EVALUATED = "the published lists were not evaluated (jobs/recommend.py, jobs/evaluate.py)"


def lists(night: Night) -> list[Block]:
    """Every figure of the published lists beside every simple reference."""
    ours = figures_of(night, RECOMMENDATIONS, _NOT_EVALUATED)
    ours = ours[ours["metric"] != NDCG_GAIN]
    beside = night.metrics[night.metrics["question"] == v.RETRIEVAL]
    beside = beside[~beside["system"].str.startswith("PRECISE") & beside[c.TASK].isin(ours[c.TASK])]
    beside = beside[beside["user_filter"].isin(ours["user_filter"])]
    together = pd.concat([ours, beside.assign(question=RECOMMENDATIONS)], ignore_index=True)
    legend = "Each list of `recommendations` where it may hold what counts: repeats and new items, either alone. "
    return [Text(legend + "References rank the whole catalog."), *figure_blocks(together, RECOMMENDATIONS)]


def precise(night: Night) -> list[Block]:
    """The best PRECISE model beside the best simple reference, and what its vectors bring to the lists."""
    metrics = figures_of(night, v.RETRIEVAL, "no retrieval figure is recorded (jobs/evaluate.py)")
    headline = v.headline_metric(metrics, v.RETRIEVAL)
    if headline is None:
        raise Skip("no figure of a whole list is recorded (jobs/evaluate.py)")
    rows: list[list[Cell | str]] = []
    for task in v.tasks_of(metrics, v.RETRIEVAL):
        for user_filter, meaning in COUNTED.items():
            found = v.scores(metrics, v.RETRIEVAL, task, *headline, user_filter)
            models = [score for score in found if v.is_ours(v.RETRIEVAL, score.system)]
            others = [score for score in found if not score.system.startswith("PRECISE")]
            if models and others:
                sides = [_side(models[0], others[0]), _side(others[0], models[0])]
                rows.append([task, meaning, *sides, formats.figure(models[0].value / max(others[0].value, 1e-12), 2)])
    name = formats.metric_name(*headline)
    header = ("task", "what counts", "best PRECISE model", "best reference", "ratio")
    grid = Grid(f"{name}, the models alone over the whole catalog", header, rows, text_columns=2)
    found_by = night.list_sources if night.tables.rows_if_any(RECOMMENDATIONS_TABLE) else None
    of_vectors = list(_vectors(found_by)) if found_by is not None and len(found_by) else []
    legend = (
        "A model alone is no list: its vectors are two of the sources, and two of the inputs of what ranks, where the "
    )
    legend += "lists that were learned from had them."
    return [*_worth(night), Text(legend), grid, *of_vectors]


def _worth(night: Night) -> Iterator[Block]:
    """The learned order with and without PRECISE, on held-out users of the period before, and what the model cost."""
    gains = night.precise_gains()
    if not gains:
        yield Text(
            "What PRECISE adds to the lists is not known: nothing was learned, or no vectors were published as of the "
            "instant that the lists learn from (recommendations.past_model)."
        )
        return
    rows: list[list[Cell | str]] = []
    for task in sorted(gains, key=lambda task: (task != ALL_TASK, task)):
        for name, of in gains[task].items():
            tone: v.Outcome = "win" if of["ci_low"] > 0 else "tie"  # red is for published lists that lose
            gain = Cell(f"{'+' if of['gain'] >= 0 else ''}{formats.figure(of['gain'])}", tone=tone)
            figures: list[Cell | str] = [formats.figure(of["with"]), formats.figure(of["without"]), gain]
            interval = formats.interval(of["ci_low"], of["ci_high"])
            rows.append([task, name, *figures, interval, f"{of['p_value']:.3f}".replace("0.", ".", 1)])
    header = ("task", "list", "with PRECISE", "without", "difference", "95 % interval", "p")
    metric = formats.metric_name("ndcg", night.settings.recommendations.k)
    yield Grid(f"{metric} of candidates, held-out users of the period before as_of", header, rows, text_columns=2)
    seconds = night.runs[night.runs[c.JOB].isin(_MODEL_JOBS)]["seconds"].sum()
    yield Text(
        "Without = the same model and loss with neither PRECISE's scores nor what U2I and U2I2I alone found; the order "
        "of a loss that the published lists may not have. "
        f"The model's jobs took {formats.duration(seconds)} of the {formats.duration(night.runs['seconds'].sum())} "
        "that all jobs took."
    )


def _side(score: v.Score, other: v.Score) -> Cell:
    return Cell(formats.figure(score.value), formats.system_name(score.system), score.value > other.value)


def _vectors(found_by: pd.DataFrame) -> Iterator[Block]:
    """How many places U2I and U2I2I found, and how many nothing else found."""
    places = found_by["rows"].sum()
    sets = found_by[c.SOURCES].str.split(",")
    of_vectors = sets.map(lambda names: bool({U2I, U2I2I} & set(names)))
    alone = sets.map(lambda names: set(names) <= {U2I, U2I2I})
    shares = [formats.percent_of(int(found_by.loc[mask, "rows"].sum()), int(places)) for mask in (of_vectors, alone)]
    yield Text(f"Of the places on the lists, U2I or U2I2I found {shares[0]}, and nothing else found {shares[1]}.")


def sources(night: Night) -> list[Block]:
    """Which sources found the items on the lists, and which items one source alone found."""
    if not night.tables.rows_if_any(RECOMMENDATIONS_TABLE):
        raise Skip("there are no lists (jobs/recommend.py)")
    blocks: list[Block] = []
    for task in sorted(night.list_sources[c.TASK].unique(), key=lambda task: (task != ALL_TASK, task)):
        of_task = night.list_sources[night.list_sources[c.TASK] == task]
        names = list(of_task[c.LIST].drop_duplicates())
        rows: dict[str, list[Cell | str]] = {}
        by_source = of_task.assign(source=of_task[c.SOURCES].str.split(",")).explode("source")
        for source in by_source.groupby("source")["rows"].sum().sort_values(ascending=False, kind="stable").index:
            cells = [_share(of_task[of_task[c.LIST] == name], source) for name in names]
            rows[source] = [formats.system_name(source), *cells]
        header = ["source", *(f"list {name}" for name in names)]
        blocks.append(Grid(f"Task {task}: share of the places that a source found", header, list(rows.values())))
    legend = "Several sources may find one item; the second line is what no other source found. "
    return [Text(legend + "`popular` stands for all lists of popular items."), *blocks]


def _share(of_list: pd.DataFrame, source: str) -> Cell:
    places = int(of_list["rows"].sum())
    found = of_list[of_list[c.SOURCES].str.split(",").map(lambda names: source in names)]
    alone = int(found.loc[found[c.SOURCES] == source, "rows"].sum())
    return Cell(
        formats.percent_of(int(found["rows"].sum()), places),
        f"alone {formats.percent_of(alone, places)}" if alone else "",
    )


def examples(night: Night) -> list[Block]:
    """A few users: their history, their lists with a reason for each item, and what they did next."""
    if not night.settings.evaluation.example_users:
        raise Skip("evaluation.example_users is 0")
    people = night.examples(night.settings.evaluation.example_users, _HISTORY, _CANDIDATES)
    if not people:
        raise Skip("there are neither lists nor candidates")
    shown = {item for person in people for item, _ in person.history}
    for person in people:
        shown |= {item for found in person.candidates.values() for pair in found for item in pair if item}
        shown |= {item for found in person.lists.values() for item, _ in found}
    titles = night.titles(shown)
    days = night.settings.evaluation.test_days
    legend = f"✓ = the user came to it in the {days} days after as_of"
    if any(person.candidates for person in people):
        legend += "; “again” = among the recent items shown"
    return [Text(f"{legend}."), *(_person(number, person, titles) for number, person in enumerate(people, 1))]


def _person(number: int, person: Example, titles: dict[str, str]) -> Person:
    recent = [Cell(titles[item], scene) for item, scene in person.history]
    found = [Listing(f"Recent items, newest first ({len(recent)} of {person.history_length})", recent)]
    found += _lists_of(person, titles) if person.lists else _candidates_of(person, titles)
    return Person(f"User {number}", found)  # no user id: the page is kept


def _lists_of(person: Example, titles: dict[str, str]) -> Iterator[Listing]:
    """All lists of the task `all`, of the other tasks the first."""
    tasks = set()
    for (task, name), found in person.lists.items():
        if task == ALL_TASK or task not in tasks:
            tasks.add(task)
            cells = [Cell(titles[item], reason, item in person.future) for item, reason in found]
            yield Listing(f"List {name} for {task}", cells)


def _candidates_of(person: Example, titles: dict[str, str]) -> Iterator[Listing]:
    had = {item for item, _ in person.history}
    for (task, source), found in person.candidates.items():
        if source != c.U2I and task != ALL_TASK:
            continue  # one neighbour list per person is enough to see what it does
        cells = []
        for item, seed in found:
            notes = [f"because of {titles[seed]}"] if seed else []
            notes += ["again"] if item in had else []
            cells.append(Cell(titles[item], ", ".join(notes), item in person.future))
        yield Listing(f"{formats.system_name(source)} for {task}", cells)
