"""The blocks of a section of the report; sections build them, the template draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from markupsafe import Markup

from precise_core.report.verdicts import Verdict

Tone = Literal["plain", "win", "loss", "tie"]


class Skip(Exception):
    """Raised by a section that has nothing to show; the message, the reason, is shown instead."""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    """A plain sentence or two."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Verdicts:
    """Sentences about who wins, each marked as a win, a loss or undecided."""

    kind: ClassVar[str] = "verdicts"
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class Plot:
    """One inline SVG and its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Plots:
    """Plots side by side where there is room, below each other on a phone."""

    kind: ClassVar[str] = "plots"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Cell:
    """A table cell: text, a small second line, whether it is the best of its column, and its colour."""

    text: str
    small: str = ""
    best: bool = False
    tone: Tone = "plain"


@dataclass(frozen=True)
class Grid:
    """A table; the first ``text_columns`` columns are text, the others numbers. ``folded`` starts closed on screen."""

    kind: ClassVar[str] = "grid"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    text_columns: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Listing:
    """A titled list of items of one example user."""

    title: str
    items: Sequence[Cell]


@dataclass(frozen=True)
class Person:
    """An example user: what they did and what they are recommended."""

    kind: ClassVar[str] = "person"
    title: str
    lists: Sequence[Listing]


@dataclass(frozen=True)
class Code:
    """Preformatted text, closed on screen."""

    kind: ClassVar[str] = "code"
    caption: str
    text: str


Block = Heading | Text | Verdicts | Plots | Grid | Person | Code


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section; ``skipped`` is the reason where it has nothing to show."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    skipped: str = ""
