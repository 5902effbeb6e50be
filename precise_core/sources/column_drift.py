"""Whether the columns of a file differ from those of the file before: by what they are, not by how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from precise_core.sources.cells import Need, names_of
from precise_core.sources.kinds import ANY, NUMBER, WHOLE, is_same_kind, kind_of

_TEXT_ROLES = ("text", "texts")


def differences(
    before: Mapping[str, str], now: Mapping[str, str], needs: Sequence[Need], *, is_open: bool
) -> tuple[list[str], list[str]]:
    """Columns that the configuration names and that are of another kind now; and what is only worth a warning.

    That a named column is gone is said where it is needed.

    Args:
        before: Column -> type of the file before, in any spelling that ``kind_of`` knows.
        now: The same of this file.
        needs: What the configuration names.
        is_open: Whether a row may leave a column out.
    """
    named = set(names_of(needs))
    both = {name: f"column {name!r} was {before[name]} and is {now[name]}" for name in now if name in before}
    other_kind = [name for name in both if not is_same_kind(before[name], now[name])]
    gone = [] if is_open else [name for name in before if name not in now]
    unnamed = [f"column {name!r} is new" for name in now if name not in before and name not in named]
    unnamed += [f"column {name!r} is gone" for name in gone if name not in named]
    unnamed += [both[name] for name in other_kind if name not in named]
    warnings = [f"{told}; the configuration does not name it" for told in unnamed]
    shown_otherwise = [name for name in both if {kind_of(before[name]), kind_of(now[name])} == {WHOLE, NUMBER}]
    as_text = {name for name, role in needs if role in _TEXT_ROLES}
    # For a model, another text is another category.
    warnings += [f"{both[name]}: as text, 7 may have become 7.0" for name in shown_otherwise if name in as_text]
    return [both[name] for name in other_kind if name in named], warnings


def kept_in_mind(before: Mapping[str, str], now: Mapping[str, str], *, is_open: bool) -> dict[str, str]:
    """The columns that the next file is compared with; one that is null now stays what it was before."""
    columns = {name: before.get(name, kind) if kind_of(kind) == ANY else kind for name, kind in now.items()}
    # A JSON object may leave a key out: what was seen once belongs to the source from then on.
    return {**before, **columns} if is_open else columns
