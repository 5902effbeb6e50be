"""The sizes that were chosen for a warehouse, and a configuration with them: `<warehouse>/sizes.json`.

What a person has written stays; a key that the configuration leaves out gets the size of the file, as far as the two go
together, and counts as left out all the same: a chosen size is a better default. Every command reads its configuration
through ``sized``, so that all jobs of a night have the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from precise_core.artefacts import SIZES
from precise_core.config import Config, Instant, validated
from precise_core.errors import ConfigError, StoreError
from precise_core.intake.sizes import LogProfile, SizeGroup, Value, choose_sizes
from precise_core.store import store_at

if TYPE_CHECKING:
    from precise_core.settings import Settings

BY_LOG = "by_log"
_GROWN = 4  # times the rows of then
_WIDTHS = ("model.fusion.id_width", "model.fusion.token_width")


class ChosenSizes(Config):
    """What `sizes.json` holds: the sizes of every key, whether the configuration leaves it out or not."""

    format: Literal[1] = 1
    chosen_at: Instant
    profile: LogProfile
    groups: dict[str, SizeGroup]

    @property
    def values(self) -> dict[str, Value]:
        return {key: value for group in self.groups.values() for key, value in group.values.items()}


def read_sizes(warehouse: str | Path) -> ChosenSizes | None:
    """The sizes in use; None where none are chosen.

    Raises:
        ConfigError: The file is damaged, or of another version.
    """
    store = store_at(warehouse)
    try:
        found = store.get(SIZES)
        return None if found is None else validated(ChosenSizes, json.loads(found.text))
    except (StoreError, ValueError, ConfigError) as error:
        raise ConfigError(
            f"{store.place(SIZES)}: cannot be used ({error}); delete it, and ingest chooses sizes again"
        ) from error


def write_sizes(warehouse: str | Path, profile: LogProfile, now: datetime) -> ChosenSizes:
    """Choose the sizes of a log, and put them in use in one step."""
    sizes = ChosenSizes(chosen_at=now.replace(microsecond=0), profile=profile, groups=choose_sizes(profile))
    store_at(warehouse).put(SIZES, json.dumps(sizes.model_dump(mode="json"), indent=2) + "\n")
    return sizes


def awaits_sizes(settings: Settings) -> bool:
    """Whether the next `ingest` has to choose sizes."""
    return settings.sizes == BY_LOG and store_at(settings.warehouse).get(SIZES) is None


def sized(settings: Settings) -> Settings:
    """``settings`` with the sizes of its warehouse in the keys that it leaves out; as it is where there are none."""
    sizes = read_sizes(settings.warehouse) if settings.sizes == BY_LOG else None
    return settings if sizes is None else with_sizes(settings, sizes)


def with_sizes(settings: Settings, sizes: ChosenSizes) -> Settings:
    """``settings`` with these sizes in the keys that it leaves out.

    Sizes are made to fit what is written; a group that even so does not go with it is left at the defaults.
    """
    return _applied(settings, sizes)[0]


def sizes_in_use(settings: Settings, sizes: ChosenSizes) -> dict[str, Value]:
    """The keys that ``with_sizes`` gives a size, and which."""
    return _applied(settings, sizes)[1]


def size_lines(settings: Settings, sizes: ChosenSizes) -> list[str]:
    """A line per group: which keys the log decides, with what, and why; what is written is not repeated."""
    in_use = sizes_in_use(settings, sizes)
    return [
        f"sizes, {name}: {_shown(chosen)} ({group.why})"
        for name, group in sizes.groups.items()
        if (chosen := {key: in_use[key] for key in group.values if key in in_use})
    ]


def chosen_line(settings: Settings, sizes: ChosenSizes) -> str:
    """When and by what the sizes were chosen, and those that the configuration leaves to them."""
    shown = _shown(sizes_in_use(settings, sizes)) or "none, the configuration has them all"
    return f"sizes as chosen on {sizes.chosen_at:%Y-%m-%d} by {sizes.profile.events:,} events: {shown}"


def kept_line(settings: Settings, sizes: ChosenSizes, rows: int) -> str:
    """For a later night, with so many ``rows`` in `events`: what is kept, and whether the log has outgrown it."""
    line, then = chosen_line(settings, sizes), sizes.profile.rows
    if rows >= _GROWN * then:
        line += f"; the log has {rows:,} events now, {then:,} then: delete {SIZES} to have them chosen again"
    return line


def _shown(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in values.items())


def _applied(settings: Settings, sizes: ChosenSizes) -> tuple[Settings, dict[str, Value]]:
    """``settings`` with sizes, and those that went with what is written: all, or group by group."""
    fitted = _fitted(settings, sizes)
    try:
        return _over(settings, fitted), fitted
    except ConfigError:
        accepted: dict[str, Value] = {}
        result = settings
    for group in sizes.groups.values():
        more = accepted | {key: fitted[key] for key in group.values if key in fitted}
        with suppress(ConfigError):
            result, accepted = _over(settings, more), more
    return result, accepted


def _fitted(settings: Settings, sizes: ChosenSizes) -> dict[str, Value]:
    """The sizes of the keys that are left out, made to fit those that are written."""
    written = _flat(settings)
    free = sizes.values.keys() - written.keys()
    now = {key: written.get(key, value) for key, value in sizes.values.items()}
    fitted = now | _fitted_lengths(now, free, settings.sequences.max_lengths.values()) | _fitted_widths(now, free)
    return {key: value for key, value in fitted.items() if key in free}


def _fitted_lengths(now: Mapping[str, Any], free: Set[str], of_tasks: Iterable[int]) -> dict[str, Value]:
    """A window is within what the encoder reads, and not shorter than the stride."""
    longest, length, stride = (now[key] for key in ("model.encoder.max_length", "windows.length", "windows.stride"))
    if "windows.length" in free:
        length = length if "model.encoder.max_length" in free else min(length, longest)
        length = length if "windows.stride" in free else max(length, stride)
    return {
        "windows.length": length,
        "windows.stride": length,
        "model.encoder.max_length": max(longest, length),
        "sequences.max_length": max(now["sequences.max_length"], length, *of_tasks),
    }


def _fitted_widths(now: Mapping[str, Any], free: Set[str]) -> dict[str, Value]:
    """The heads divide either half of an item vector."""
    heads, widths = int(now["model.encoder.heads"]), {key: int(now[key]) for key in _WIDTHS}
    if "model.encoder.heads" not in free:
        return {key: -(-width // heads) * heads for key, width in widths.items()}
    common = math.gcd(*widths.values())
    return {"model.encoder.heads": next(number for number in range(heads, 0, -1) if common % number == 0)}


def _over(settings: Settings, values: Mapping[str, Value]) -> Settings:
    """``settings`` with these values in keys that it leaves out, and that still count as left out."""
    written = settings.model_dump(mode="json", exclude_unset=True)
    data = json.loads(json.dumps(written))
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = data
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    result = validated(type(settings), data)
    _unmark(result, written, data)
    return result


def _unmark(config: Config, written: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        part = getattr(config, name, None)
        if isinstance(part, Config) and isinstance(value, Mapping):
            _unmark(part, written.get(name, {}), value)
        if name not in written:
            config.model_fields_set.discard(name)


def _flat(settings: Settings) -> dict[str, Any]:
    """What is written, by dotted key."""
    return dict(_leaves(settings.model_dump(mode="json", exclude_unset=True)))


def _leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
