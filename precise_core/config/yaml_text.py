"""YAML read literally: what is not clearly a number, true, false or null is text.

PyYAML follows YAML 1.1, where `no` is false, `0123` is 83, `12:30` is 750, `1e3` is text, and of two equal keys the
last one wins. Here the rules are those of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), a key is always
text, and a number is decimal. Anchors, aliases and the merge key `<<` work as they do everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import yaml

from precise_core.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_TEXT, _LIST, _MAPPING, _MERGE = (f"{_TAG}{name}" for name in ("str", "seq", "map", "merge"))


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError("too large")
    return value


# How a kind of scalar is written, by which characters it may begin, and what it becomes.
_SCALARS: dict[str, tuple[str, list[str], Callable[[str], Any]]] = {
    f"{_TAG}null": (r"(?:~|null|Null|NULL|)\Z", ["", *"~nN"], lambda _: None),
    f"{_TAG}bool": (r"(?:true|True|TRUE|false|False|FALSE)\Z", [*"tTfF"], lambda text: text.lower() == "true"),
    f"{_TAG}int": (r"[-+]?(?:0|[1-9][0-9]*)\Z", [*"-+0123456789"], int),
    f"{_TAG}float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z",
        [*"-+.0123456789"],
        _finite,
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML keeps them by class


for _tag, (_pattern, _first, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def read_yaml(text: str) -> Any:
    """Dictionaries, lists, texts, numbers, true, false and null; None where ``text`` holds nothing.

    Raises:
        ConfigError: It is not YAML, a mapping has a key twice, or a value is of a kind that is not read.
    """
    node = _compose(text)
    return None if node is None else _value(node, ())


def read_value(text: str) -> Any:
    """One value of a command line, all of it.

    Raises:
        ConfigError: As ``read_yaml``, or a part of ``text`` would be left out as a comment.
    """
    node = _compose(text)
    written = "" if node is None else text[node.start_mark.index : node.end_mark.index]
    if written.strip() != text.strip():
        raise ConfigError(f"only {written!r} of it would be read, the rest is a comment; put the value into quotes")
    return None if node is None else _value(node, ())


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"not valid YAML: {_place(error.problem_mark)}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError("not valid YAML: it is nested too deeply") from error


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _value(node: yaml.Node, above: tuple[yaml.Node, ...]) -> Any:
    """Every use of an anchor becomes a value of its own, so that an override of one does not change the others."""
    if node in above:
        _refuse(node, "an anchor must not be used inside of what it names")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode) and node.tag == _LIST:
        return [_value(entry, (*above, node)) for entry in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING:
        return _mapping(node, (*above, node))
    return _refuse(node, f"the tag {node.tag!r} is not read")


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.tag in (_TEXT, _MERGE):
        return node.value
    if node.tag not in _SCALARS:
        _refuse(node, f"the tag {node.tag!r} is not read")
    pattern, _, convert = _SCALARS[node.tag]
    if not re.match(pattern, node.value):
        _refuse(node, f"{node.value!r} is not of the kind that its tag says")
    try:
        return convert(node.value)
    except ValueError:
        _refuse(node, f"the number {node.value[:40]!r} is too large")


def _mapping(node: yaml.MappingNode, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
    lines: dict[str, int] = {}
    own: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse(key, "a key must be text")
        line = key.start_mark.line + 1
        if key.value in lines:
            _refuse(key, f"the key {key.value!r} stands in line {lines[key.value]} already; keep one of them")
        lines[key.value] = line
        if key.tag == _MERGE:
            merged = _merged(value, above)
        else:
            own[key.value] = _value(value, above)
    return merged | own


def _merged(node: yaml.Node, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
    """The content of a merge key: a mapping, or a list of mappings of which the first one that has a key wins."""
    value = _value(node, above)
    parts = value if isinstance(value, list) else [value]
    result: dict[str, Any] = {}
    for part in parts:
        if not isinstance(part, dict):
            _refuse(node, "the merge key << needs a mapping, or a list of mappings")
        result = part | result
    return result


def _refuse(node: yaml.Node, why: str) -> NoReturn:
    raise ConfigError(f"line {node.start_mark.line + 1}: {why}")
