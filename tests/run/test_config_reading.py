"""A configuration means what stands in it: nothing is reinterpreted, overridden or decoded in silence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import run_days
from precise_core.config import load_config, over
from precise_core.config.yaml_text import read_yaml
from precise_core.errors import ConfigError
from precise_core.settings import Settings
from tests.night import run

HEAD = "name: small\nwarehouse: build/small\nsource: {kind: synthetic}\n"
DAY = "as_of: 2024-03-01\n"


def load(folder: Path, text: str | bytes, *overrides: str) -> Settings:
    file = folder / "small.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(file, Settings, overrides)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(folder, text, *overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("written", ["2024-03-10", "'2024-03-10'", "2024-03-10T00:00:00", "2024-03-10 02:00 +02:00"])
def test_a_date_is_a_date_in_a_file_and_on_the_command_line(tmp_path: Path, written: str) -> None:
    expected = datetime(2024, 3, 10, tzinfo=UTC)
    assert load(tmp_path, f"{HEAD}as_of: {written}\n").as_of == expected
    assert load(tmp_path, HEAD + DAY, f"as_of={written}").as_of == expected


NO_DATES = ["20240310", "'20240310'", "2024", "'2024'", "2024.5", "1.7e9", "true", "2024-3-1", "2024-02-30", "12:30"]


@pytest.mark.parametrize("written", [*NO_DATES, "2024-03-10T25:00", "2024-W10-1", "[2024-03-10]"])
@pytest.mark.parametrize("key", ["as_of", "source.start", "source.delivered_before"])
def test_what_is_no_date_is_refused_for_every_key(tmp_path: Path, key: str, written: str) -> None:
    found = refusal(tmp_path, HEAD + (DAY if key != "as_of" else ""), f"{key}={written}")
    assert f"{key}: a date " in found and "is needed, e.g. 2024-03-10" in found
    if key == "as_of":
        assert "as_of: a date or an instant is needed, e.g. 2024-03-10, 2" in refusal(
            tmp_path, f"{HEAD}as_of: {written}"
        )


def test_the_day_of_the_first_impressions_is_a_date(tmp_path: Path) -> None:
    source = "source={kind: completejourney, impressions_from: %s}"
    assert "source.impressions_from: a date is needed" in refusal(tmp_path, HEAD + DAY, source % "20171204")
    assert str(load(tmp_path, HEAD + DAY, source % "2017-12-05").source.impressions_from) == "2017-12-05"  # type: ignore[union-attr]


WORDS = ["no", "yes", "on", "off", "y", "N", "010", "0x1F", "12:30", "1_000", "2024-03-01", ".nan", "-.inf", "=", "~x"]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_a_name_as_it_is_written_and_no_number(tmp_path: Path, word: str) -> None:
    found = load(tmp_path, f"{HEAD}{DAY}spark: {{conf: {{{word}: {word}}}}}\n", f"text.language_model={word}")
    assert (found.spark.conf, found.text.language_model) == ({word: word}, word)
    for key in ("seed", "universal.optimizer.learning_rate", "recall.filter_seen"):
        assert f"{key}: " in refusal(tmp_path, HEAD + DAY, f"{key}={word}")


@pytest.mark.parametrize("written", ["2024", "-3", "1e3", "1.0", "true", "FALSE", "null", "~"])
def test_what_is_no_text_is_not_made_one(tmp_path: Path, written: str) -> None:
    found = refusal(tmp_path, f"{HEAD}{DAY}text: {{language_model: {written}}}\n")
    assert "text.language_model: text is needed; put it into quotes (got " in found
    assert load(tmp_path, HEAD + DAY, f"text.language_model='{written}'").text.language_model == written


@pytest.mark.parametrize(
    ("key", "written", "message"),
    [
        ("universal.epochs", "true", "valid integer (got True)"),
        ("universal.epochs", "'3'", "valid integer (got '3')"),
        ("universal.epochs", "3.0", "valid integer (got 3.0)"),
        ("universal.epochs", "1e3", "valid integer (got 1000.0)"),
        ("universal.optimizer.learning_rate", "true", "valid number (got True)"),
        ("universal.optimizer.learning_rate", "'0.1'", "valid number (got '0.1')"),
        ("recall.filter_seen", "1", "true or false is needed (got 1)"),
        ("recall.filter_seen", "yes", "true or false is needed (got 'yes')"),
        ("recall.filter_seen", "'true'", "true or false is needed (got 'true')"),
        ("evaluation.ks", "[5, true]", "evaluation.ks.1: "),
        ("evaluation.ks", "10", "valid array (got 10)"),
        ("text.fields", "title", "valid array (got 'title')"),
        ("sequences.max_lengths", "{all: '3'}", "sequences.max_lengths.all: "),
    ],
)
def test_no_kind_is_taken_for_another(tmp_path: Path, key: str, written: str, message: str) -> None:
    found = refusal(tmp_path, HEAD + DAY, f"{key}={written}")
    assert f": {key}" in found and message in found


@pytest.mark.parametrize("written", ["true", "'3'", "3.0", "1e3"])
def test_the_changes_of_a_system_are_read_as_strictly(tmp_path: Path, written: str) -> None:
    systems = f"experiment: {{reference: a, systems: {{a: {{changes: {{universal: {{epochs: {written}}}}}}}}}}}"
    found = refusal(tmp_path, HEAD + DAY + systems)
    assert "experiment.systems.a: universal.epochs: Input should be a valid integer" in found


def test_whole_numbers_and_exponents_are_numbers(tmp_path: Path) -> None:
    optimizer = load(
        tmp_path, f"{HEAD}{DAY}universal: {{optimizer: {{learning_rate: 1e-3, clip_norm: 2}}}}"
    ).universal.optimizer
    assert (optimizer.learning_rate, optimizer.clip_norm) == (0.001, 2.0)
    assert "the number '1e999' is too large" in refusal(tmp_path, HEAD + DAY, "universal.optimizer.clip_norm=1e999")


_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))  # PyYAML itself folds U+0085 and the like
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
_TREES = st.recursive(_PLAIN, lambda below: st.lists(below) | st.dictionaries(_TEXTS, below), max_leaves=8)


@settings(max_examples=60)
@given(st.dictionaries(_TEXTS, _TREES, min_size=1))
def test_what_json_writes_is_read_as_it_was(data: dict[str, Any]) -> None:
    """As `run_experiment` hands the configuration of a system to its jobs."""
    for written in (data, {"user": "1e3", "item": ".5e3", "time": "-1e3", "scene": "no"}):
        assert read_yaml(json.dumps(written, indent=1, ensure_ascii=False)) == written


@settings(max_examples=60)
@given(st.dictionaries(_TEXTS, _TREES, min_size=1))
def test_what_pyyaml_writes_is_read_as_it_was(data: dict[str, Any]) -> None:
    for flow in (True, False):
        assert read_yaml(yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True)) == data


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]) | st.sampled_from("_.:+-/ "), min_size=1))
def test_a_plain_word_is_itself_or_what_it_says(word: str) -> None:
    try:
        found = read_yaml(f"- {word}x")[0]
    except ConfigError:
        return  # no plain word: an indicator of YAML
    assert found == f"{word}x".strip() or isinstance(found, list | dict)


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        (f"{HEAD}{DAY}warehouse: other\n", "warehouse", 2, 5),
        (f"{HEAD}{DAY}universal:\n  epochs: 1\n  optimizer: {{}}\n  epochs: 2\n", "epochs", 6, 8),
        (f"{HEAD}{DAY}tasks:\n  a: {{scene: x}}\n  'a': {{scene: y}}\n", "a", 6, 7),
        (f"{HEAD}{DAY}scoring:\n  pairs:\n  - {{path: x,\n     path: y}}\n", "path", 7, 8),
        (f"{HEAD}{DAY}feed: &a {{}}\nuniversal:\n  <<: *a\n  <<: *a\n", "<<", 7, 8),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, key: str, first: int, second: int
) -> None:
    expected = f"small.yaml: line {second}: the key {key!r} stands in line {first} already; keep one of them"
    assert refusal(tmp_path, text).endswith(expected)


def test_anchors_and_merge_keys_work_and_are_independent(tmp_path: Path) -> None:
    text = (
        f"{HEAD}{DAY}universal: &shared\n  epochs: 5\n  batch_size: 32\n  optimizer: &o {{warmup_steps: 7}}\n"
        "targeted:\n  <<: *shared\n  epochs: 6\n"
    )
    found = load(tmp_path, text, "universal.batch_size=64", "universal.optimizer.warmup_steps=9")
    assert (found.universal.epochs, found.universal.batch_size, found.targeted.epochs) == (5, 64, 6)
    assert (found.targeted.batch_size, found.targeted.optimizer.warmup_steps) == (32, 7)
    assert read_yaml("<<: [{a: 1}, {a: 2, b: 2}]\nc: 3") == {"a": 1, "b": 2, "c": 3}
    for wrong, why in (("a: &x [*x]", "inside of what it names"), ("<<: 3", "needs a mapping"), ("a: *x", "alias 'x'")):
        with pytest.raises(ConfigError, match=why):
            read_yaml(wrong)


UMLAUT = f"{HEAD}{DAY}# für alle\n"


def test_files_in_other_encodings_are_named_as_what_they_are(tmp_path: Path) -> None:
    assert load(tmp_path, UMLAUT.encode("utf-8-sig")).name == "small"
    assert "small.yaml: not UTF-8, line 5 holds the byte 0xfc (Latin-1, Windows-1252?); save it as UTF-8" in refusal(
        tmp_path, UMLAUT.encode("latin-1")
    )
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert "this is UTF-16 or UTF-32, or no text at all; save it as UTF-8" in refusal(
            tmp_path, UMLAUT.encode(encoding)
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name:\n\tsmall\n", "line 2, column 1: found character '\\t'"),
        ("- name\n", "expected a mapping of keys to values, found list"),
        ("small\n", "found str"),
        ("false\n", "found bool"),
        ("0\n", "found int"),
        ("", "name: required, but not given"),
        ("# nothing\n---\n", "name: required, but not given"),
        ("name: a\n---\nname: b\n", "but found another document"),
        ("name: a\x07\n", "unacceptable character #x0007"),
        ("name: 'a\n", "not valid YAML: line 2, column 1: "),
        ("? [a]\n: b\n", "line 1: a key must be text"),
        ("a: !!python/name:os.system ''\n", "line 1: the tag 'tag:yaml.org,2002:python/name:os.system' is not read"),
        ("a: !!bool yes\n", "line 1: 'yes' is not of the kind that its tag says"),
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_a_bottomless_file_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "nested too deeply" in refusal(tmp_path, "[" * 5000)


def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path) -> None:
    wrong = {tmp_path: "not a file but a folder", "": "not a file", tmp_path / "x.yaml": "no such file"}
    wrong |= {"/dev/null": "not a file;", tmp_path / ("x" * 300): "cannot be read: File name too long"}
    for path, why in wrong.items():
        with pytest.raises(ConfigError, match=f"^--config .*: {why}") as error:
            load_config(path, Settings)
        assert "\n" not in str(error.value)


LOG = "source={kind: files, events: {path: a.csv, user: u, item: i, time: t, delimiter: %s}}"


@pytest.mark.parametrize("delimiter", ["'::'", "''", "comma", "'\"'", '"\\n"', '"\\r"', '"\\0"', "'\\t'"])
def test_a_delimiter_is_one_character(tmp_path: Path, delimiter: str) -> None:
    found = refusal(tmp_path, HEAD + DAY, LOG % delimiter)
    assert "source.events.delimiter: " in found and "one character" in found


@pytest.mark.parametrize(("written", "value"), [("';'", ";"), ('"\\t"', "\t"), ("'|'", "|"), ("¦", "¦"), ("' '", " ")])
def test_any_other_character_is_a_delimiter(tmp_path: Path, written: str, value: str) -> None:
    assert load(tmp_path, HEAD + DAY, LOG % written).source.events.delimiter == value  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "overrides",
    [
        ("seed=1", "seed=2"),
        ("universal.epochs=1", " universal . epochs =1"),
        ("universal={epochs: 1}", "universal.batch_size=8"),
        ("universal.optimizer.beta2=0.9", "seed=1", "universal={}"),
    ],
)
def test_a_key_that_is_set_twice_is_refused(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    found = refusal(tmp_path, HEAD + DAY, *overrides)
    assert found == f"--set {overrides[0]!r} and {overrides[-1]!r}: one would override the other; give the key once"


def test_a_comment_does_not_cut_a_value(tmp_path: Path) -> None:
    found = refusal(tmp_path, HEAD + DAY, "warehouse=build/run #2")
    assert found.endswith("only 'build/run' of it would be read, the rest is a comment; put the value into quotes")
    assert load(tmp_path, HEAD + DAY, "warehouse='build/run #2'").warehouse == "build/run #2"
    assert load(tmp_path, HEAD + DAY, "warehouse=build/run#2").warehouse == "build/run#2"


@pytest.mark.parametrize("folder", ["2024", "no", "a: b", "runs #2", "[x]", "*a", "größe", "😀", "C:\\x", 'it\'s "x"'])
def test_the_folder_of_data_is_no_yaml(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(f"{HEAD}{DAY}".replace("{kind: synthetic}", "{kind: movielens_small, data: x}"), encoding="utf-8")
    assert run("ingest", tmp_path / "warehouse", "--data", str(tmp_path / folder), config=file) == 2
    assert folder in capsys.readouterr().out.replace("\n", "")


def test_settings_of_spark_that_another_key_decides_are_refused(tmp_path: Path) -> None:
    for key, own in (("spark.master", "master"), ("spark.sql.shuffle.partitions", "shuffle_partitions")):
        found = refusal(tmp_path, f"{HEAD}{DAY}spark: {{conf: {{{key}: '8'}}}}\n")
        assert f"spark.conf: {key} is set by the key spark.{own}, which would win; set that one" in found


def test_the_nights_of_run_days_are_those_of_its_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(HEAD + DAY, encoding="utf-8")
    span = ["--config", str(file), "--from", "2024-02-01", "--to", "2024-02-02"]
    for flags, key in (
        (["--set", "as_of=2024-01-01"], "as_of"),
        (["--policy", "1", "--set", "targeted={}"], "targeted"),
    ):
        assert run_days.main([*span, *flags]) == 2
        assert f"--set '{key}" in (out := capsys.readouterr().out) and "override the other" in out.replace("\n", " ")
    assert over(["a.b=1", "c=2"], ["c=3"]) == ["a.b=1", "c=3"]
    assert over(["a.b=1", "c=2"], ["a={}"]) == ["c=2", "a={}"]
