"""The section with a few users: what they did, what they are recommended, what they then did."""

from __future__ import annotations

from precise_core.config.tasks import ALL_TASK
from precise_core.report import formats
from precise_core.report.blocks import Block, Cell, Listing, Person, Skip, Text
from precise_core.report.data import Example, Night

_HISTORY, _CANDIDATES = 10, 8


def examples(night: Night) -> list[Block]:
    """A few users: what they did, what they are recommended, and what they then did."""
    if not night.settings.evaluation.example_users:
        raise Skip("evaluation.example_users is 0")
    people = night.examples(night.settings.evaluation.example_users, _HISTORY, _CANDIDATES)
    if not people:
        raise Skip("recall_candidates is empty")
    shown = {item for person in people for item, _ in person.history}
    for person in people:
        shown |= {item for found in person.candidates.values() for pair in found for item in pair if item}
    titles = night.titles(shown)
    days = night.settings.evaluation.test_days
    legend = f"✓ = the user came to it in the {days} days after as_of; “again” = among the recent items shown."
    return [Text(legend), *(_person(number, person, titles) for number, person in enumerate(people, 1))]


def _person(number: int, person: Example, titles: dict[str, str]) -> Person:
    recent = [Cell(titles[item], scene) for item, scene in person.history]
    lists = [Listing(f"Recent items, newest first ({len(recent)} of {person.history_length})", recent)]
    had = {item for item, _ in person.history}
    for (task, source), found in person.candidates.items():
        if source != "u2i" and task != ALL_TASK:
            continue  # one neighbour list per person is enough to see what it does
        cells = []
        for item, seed in found:
            notes = [f"because of {titles[seed]}"] if seed else []
            cells.append(
                Cell(titles[item], ", ".join([*notes, *(["again"] if item in had else [])]), item in person.future)
            )
        lists.append(Listing(f"{formats.system_name(source)} for {task}", cells))
    return Person(f"User {number}", lists)  # the page is kept, and says nobody's id
