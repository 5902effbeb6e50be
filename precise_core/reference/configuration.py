"""Render every configuration class to docs/configuration.md: `python -m precise_core.reference.configuration`.

Keys, types, defaults, ranges and meanings are read off the pydantic models that ``Settings`` reaches; what a key means
is its ``Field(description=...)``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from precise_core.config import Config
from precise_core.settings import Settings

TARGET = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

_HEADER = """# Configuration

Generated from the configuration classes by `python -m precise_core.reference.configuration`; do not edit.

One YAML file describes one environment; every job takes it as `--config FILE`. `--set a.b=c` (repeatable) overrides one
key, and its value is read as YAML: `--set universal.epochs=2`, `--set 'evaluation.ks=[5, 10]'`. An unknown key or an
impossible value ends the job before it starts, with the path of the key and what is allowed. The resolved configuration
is kept as JSON with every run in the table [`runs`](tables.md#runs).

Defaults are those of the classes. With `sizes: by_log` (the default) `ingest` chooses lengths, widths, epochs and
periods that the file leaves out by the log instead, [once](your_data.md#sizes).

Nothing is reinterpreted, and nothing is overridden in silence:

- the file is UTF-8; a repeated key is refused, in the file (with both lines) and among the `--set`; anchors and the
  merge key `<<` work;
- a number is decimal (`3`, `0.1`, `1e-3`), only `true` and `false` are booleans, `null` or `~` is nothing; every other
  word is text: `no`, `on`, `0123`, `12:30`, `1_000`;
- a text must be text (`"2024"`, in quotes, as the name of a column), and a number a number: `"3"`, `true` and `3.0` are
  no integers;
- a date is `2024-03-10`, an instant that, `2024-03-10T06:30:00Z` or `2024-03-10T08:30:00+02:00`; a number is neither;
- a `#` after a blank in a `--set` would begin a comment: put such a value into quotes. `--data FOLDER` needs none.

Rules across keys are checked as well:

- `as_of` is a whole second;
- `sequences.max_lengths` names declared tasks (or `all`), and none of them is above `sequences.max_length`;
- `windows.stride` is at most `windows.length`, or events between windows would be lost;
- `windows.train_includes_validation` needs `windows.split: leave_one_out`;
- `windows.length` is at most `model.encoder.max_length`;
- `model.fusion.top_k` is at most `model.fusion.num_experts`;
- `model.encoder.heads` divides the width of an item (`id_width + token_width`; only one of them in the modes `id` and
  `llm`);
- `model.encoder.kind: hstu` needs a source whose times are not made up, or `model.encoder.time_bias: false`; its
  `ffn_width` is null, that of all other kinds a number;
- `model.fusion.token_init` `sentence` or `top_layers` needs `model.fusion.mode` `llm` or `pool`;
- `ranking_features.train_share + validation_share` is below 1, so that impressions are left to test on;
- `ranking_features.tasks` names only `all` and declared tasks;
- a task gives `scene`, `action` or both; a task is never called `all`;
- negatives have at least one source;
- `model.late_fusion` needs `model.fusion.mode` `pool` or `moe`, and `model.prediction: next_item`;
- `model.prediction: masked_item` needs `universal.horizon_days: 0` and `universal.target_filter: all`;
- `universal.logit_adjustment` above 0 needs negatives that do not leave popularity out already: `logq_correction`,
  `whole_catalog`, or no `in_batch`;
- `targeted.warm_start: false` needs `universal.start: scratch` and `targeted.warm_up_every_days: 1`;
- `experiment.also_against` names systems, systems with a blend and ` + history`, systems with `text_weights` and
  `, reweighted`, those of `sums` and `, sum of seeds`, or simple references, each once;
- `experiment.systems.<name>.text_weights` needs `model.late_fusion`, an encoder that does not read times, and
  validation items that are not learnt;
- `experiment.sums` needs several seeds.
"""


Kind = type[Config]


def render(root: Kind = Settings) -> str:
    """One Markdown page: a list of the sections of ``root``, then each class with its keys."""
    places = config_places(root)
    return "\n".join([_HEADER, _overview(places), *(_section(kind, at, places) for kind, at in places.items())])


def config_places(root: Kind) -> dict[Kind, list[str]]:
    """Every configuration class that ``root`` reaches, and the key paths at which it is, in the order of the file.

    An entry of a mapping is written `<name>`: the tasks are at `tasks.<name>`.
    """
    places: dict[Kind, list[str]] = {}

    def visit(kind: Kind, path: str) -> None:
        places.setdefault(kind, []).append(path)
        for name, field in kind.model_fields.items():
            for below, is_entry in _configs_in(field.annotation):
                visit(below, ".".join(filter(None, [path, name, "<name>" if is_entry else ""])))

    visit(root, "")
    return places


def undescribed_keys(root: Kind = Settings) -> list[str]:
    """`Class.key` of every key that the page could not explain; empty when the page is complete."""
    return [
        f"{kind.__name__}.{name}"
        for kind in config_places(root)
        for name, field in kind.model_fields.items()
        if not field.description
    ]


def main() -> None:
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET.name}: {len(config_places(Settings))} sections")
    for key in undescribed_keys():
        print(f"no description: {key}")


def _configs_in(annotation: Any, is_entry: bool = False) -> Iterator[tuple[Kind, bool]]:
    """The configuration classes inside a type, and whether they are values of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation, is_entry
    for part in get_args(annotation):
        yield from _configs_in(part, is_entry or get_origin(annotation) is dict)


def _overview(places: dict[Kind, list[str]]) -> str:
    rows = [f"| [{kind.__name__}](#{kind.__name__.lower()}) | {_where(at)} |" for kind, at in places.items()]
    return "\n".join(["| section | at |", "| --- | --- |", *rows, ""])


def _where(paths: list[str]) -> str:
    return ", ".join(f"`{path}`" if path else "the top of the file" for path in paths)


def _section(kind: Kind, paths: list[str], places: dict[Kind, list[str]]) -> str:
    head = ["| key | type | default | allowed | meaning |", "| --- | --- | --- | --- | --- |"]
    rows = [_row(name, field, paths, places) for name, field in kind.model_fields.items()]
    doc = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    return "\n".join([f"## {kind.__name__}", "", doc, "", f"At {_where(paths)}.", "", *head, *rows, ""])


def _row(name: str, field: FieldInfo, paths: list[str], places: dict[Kind, list[str]]) -> str:
    keys = "<br>".join(f"`{path}.{name}`" if path else f"`{name}`" for path in paths)
    linked = dict.fromkeys(below for below, _ in _configs_in(field.annotation) if below in places)
    see = "; ".join(f"[{below.__name__}](#{below.__name__.lower()})" for below in linked)
    meaning = " ".join(filter(None, [field.description, f"See {see}." if see else ""]))
    cells = [keys, f"`{_type_name(field.annotation)}`", _default(field), _allowed(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return "choice"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys("nothing" if a is NoneType else _type_name(a) for a in arguments))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"mapping of name to {_type_name(arguments[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "section" if list(_configs_in(annotation)) else annotation.__name__)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, Config):
        differing = value.model_dump(mode="json", exclude_unset=True, exclude_defaults=True)
        return f"`{json.dumps(differing)}`" if differing else "its defaults"
    return f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`"


def _allowed(field: FieldInfo) -> str:
    choices = [f"`{choice}`" for choice in _choices(field.annotation)]
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "pattern": "matches `{}`"}
    limits = [
        text.format(f"{limit:,}" if isinstance(limit, int) else limit)
        for metadata in field.metadata
        for name, text in words.items()
        if (limit := getattr(metadata, name, None)) is not None
    ]
    return ", ".join([*choices, *limits])


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _choices(part)


if __name__ == "__main__":
    main()
