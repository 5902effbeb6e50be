"""A configuration is refused where it is wrong, with the path of the key; equal values have equal hashes."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError as PydanticValidationError

from precise_core.config import Config, config_hash, load_config
from precise_core.errors import ConfigError
from precise_core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

MINIMAL = """
name: small
warehouse: build/small
as_of: 2024-03-01
source: {kind: synthetic}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def load(file: Path, *overrides: str) -> Settings:
    return load_config(file, Settings, overrides)


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(file, *overrides)
    return str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_loads_and_keeps_inside_the_checkout(path: Path) -> None:
    settings = load(path)
    assert settings.as_of.tzinfo is UTC
    assert "://" in settings.warehouse or not Path(settings.warehouse).is_absolute()


def test_defaults_fill_what_is_not_given(file: Path) -> None:
    settings = load(file)
    assert settings.task_names == ("all",)
    assert settings.as_of == datetime(2024, 3, 1, tzinfo=UTC)
    assert settings.model.fusion.width == settings.model.fusion.id_width + settings.model.fusion.token_width


def test_a_time_with_an_offset_is_read_as_utc(file: Path) -> None:
    assert load(file, "as_of=2024-03-01T02:00:00+02:00").as_of == datetime(2024, 3, 1, tzinfo=UTC)


def test_tasks_keep_the_order_of_the_file(file: Path) -> None:
    settings = load(file, "tasks={share: {action: share}, click: {scene: box, action: click}}")
    assert settings.task_names == ("all", "share", "click")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("universal.epoch=2", "universal.epoch: unknown key; allowed here: .*epochs"),
        ("model.fusion.experts=2", "model.fusion.experts: unknown key; allowed here: .*num_experts"),
        ("sed=2", "sed: unknown key; allowed here: .*seed"),
        ("universal.epochs=many", "universal.epochs: .*integer.* .got 'many'."),
        (
            "universal={logit_adjustment: 1, negatives: {logq_correction: false}}",
            "universal: logit_adjustment 1: in-batch negatives without logq_correction leave popularity out already",
        ),
        ("universal.batch_size=1", "universal.batch_size: .*greater than or equal to 2 .got 1."),
        ("model.fusion.mode=mean", "model.fusion.mode: .*'id', 'llm', 'pool' or 'moe' .got 'mean'."),
        ("model.fusion.top_k=9", "model.fusion: top_k 9 is above num_experts 4"),
        ("model.encoder.heads=7", "model: encoder.heads 7 does not divide the item width 256"),
        ("windows.stride=101", "windows: stride 101 is above length 100: events between windows would be lost"),
        ("model.encoder.max_length=50", "windows.length 100 is above model.encoder.max_length 50"),
        ("tasks.all={action: share}", "tasks: task name 'all'"),
        ("tasks.a-b={action: share}", "tasks: task name 'a-b'"),
        ("tasks.share={}", "tasks.share: give `scene`, `action` or both"),
        ("ranking_features.tasks=[buy]", r"unknown task \['buy'\]; declared are \['all'\]"),
        ("source.kind=oracle", "source: .*'oracle'.*'files', 'completejourney'"),
        ("source.user=3", "source.user: unknown key"),
        ("name=../x", "name: .*pattern"),
        ("as_of=soon", "as_of: a date or an instant is needed, e.g. 2024-03-10, .* .got .soon."),
        ("as_of=2024-03-01T00:00:00.5Z", "as_of: .*whole seconds are needed, it is 2024-03-01T00:00:00.500000"),
        ("sequences={max_length: 5, max_lengths: {all: 6}}", "max_lengths .'all': 6. are above max_length 5"),
        ("sequences={max_lengths: {share: 6}}", "sequences.max_lengths: unknown task .'share'.; declared are"),
        ("spark.driver_memory=lots", "spark.driver_memory: .*pattern"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_its_path(file: Path, override: str, message: str) -> None:
    found = refusal(file, override)
    assert re.search(f"^{re.escape(str(file))}: .*{message}", found, re.DOTALL), found


def test_all_faults_are_named_at_once(file: Path) -> None:
    found = refusal(file, "universal.epochs=-1", "targeted.loss=hinge", "nonsense=1")
    assert all(path in found for path in ("universal.epochs: ", "targeted.loss: ", "nonsense: unknown key"))


@pytest.mark.parametrize("ahead", ["universal.horizon_days=9", "universal.target_filter=new"])
def test_masked_items_have_no_next_items_to_choose(file: Path, ahead: str) -> None:
    found = refusal(file, "model.prediction=masked_item", ahead)
    assert "choose next items; model.prediction masked_item has none: it needs 0 and all" in found


def test_a_required_key_is_asked_for(tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("", encoding="utf-8")
    found = refusal(empty)
    assert all(f"{key}: required, but not given" in found for key in ("name", "warehouse", "as_of", "source"))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a\n- b\n", "expected a mapping .* found list")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"bad.yaml: {message}"):
        load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*nowhere\.yaml: no such file; examples are in conf/"):
        load(tmp_path / "nowhere.yaml")


def test_overrides_are_read_as_yaml(file: Path) -> None:
    settings = load(
        file,
        "universal.epochs=9",
        "text.fields=[title]",
        "model.learned_temperature=false",
        "windows.length=40",
        "windows.stride=20",
        "spark.conf={a.b: 'x=y'}",
    )
    assert settings.universal.epochs == 9
    assert settings.text.fields == ("title",)
    assert settings.model.learned_temperature is False
    assert (settings.windows.length, settings.windows.stride) == (40, 20)
    assert settings.spark.conf == {"a.b": "x=y"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("universal.epochs", "--set 'universal.epochs': expected key=value"),
        ("=3", "--set '=3': expected key=value"),
        ("name.first=x", "--set 'name.first=x': name is a value, not a mapping"),
        ("seed=[1", r"--set 'seed=\[1': not valid YAML: line 1, column 3: "),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file, override)


def test_a_config_is_frozen(file: Path) -> None:
    settings = load(file)
    with pytest.raises(PydanticValidationError):
        settings.seed = 3  # type: ignore[misc]
    with pytest.raises(PydanticValidationError):
        settings.universal.epochs = 3  # type: ignore[misc]


def test_the_hash_depends_on_values_and_not_on_their_order_or_spelling(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.yaml"
    lines = [line for line in MINIMAL.splitlines() if line]
    other.write_text("\n".join([*reversed(lines), "seed: 17", "windows: {stride: 100, length: 100}"]), encoding="utf-8")
    assert config_hash(load(file)) == config_hash(load(other))
    assert config_hash(load(file)) == config_hash(load(file, "as_of=2024-03-01T01:00:00+01:00"))
    assert config_hash(load(file)) != config_hash(load(file, "seed=18"))
    assert config_hash(load(file)) != config_hash(load(file, "universal.optimizer.beta2=0.99"))


def test_the_hash_is_the_same_in_another_process(file: Path) -> None:
    code = (
        "import sys; from precise_core.config import config_hash, load_config; "
        "from precise_core.settings import Settings; print(config_hash(load_config(sys.argv[1], Settings)))"
    )
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": "123"}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == config_hash(load(file))


class _Pair(Config):
    left: dict[str, int]
    right: tuple[float, ...]


@given(st.dictionaries(st.text(), st.integers()), st.lists(st.floats(allow_nan=False)))
def test_equal_configs_hash_equally_and_unequal_ones_do_not(left: dict[str, int], right: list[float]) -> None:
    one = _Pair(left=left, right=tuple(right))
    reordered = _Pair(left=dict(reversed(left.items())), right=tuple(right))
    assert config_hash(one) == config_hash(reordered)
    assert config_hash(one) != config_hash(_Pair(left=left | {"more": len(left)}, right=(*right, 0.0)))


def test_settings_import_no_engine() -> None:
    engines = ("pyspark", "torch", "petastorm", "faiss", "great_expectations", "numpy")
    code = f"import sys, precise_core.settings; print([m for m in {engines} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("warehouse", ["s3a://bucket/lake", "s3://bucket/lake/"])
def test_a_warehouse_in_an_object_store_has_one_name(warehouse: str) -> None:
    settings = load_config(ROOT / "conf" / "synthetic.yaml", Settings, [f"warehouse={warehouse}"])
    assert settings.warehouse == "s3a://bucket/lake"


@pytest.mark.parametrize("warehouse", ["hdfs://name/lake", "s3a:/bucket/lake", "s3a://bucket/a?b"])
def test_a_warehouse_that_nobody_could_read_is_refused(warehouse: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(warehouse)):
        load_config(ROOT / "conf" / "synthetic.yaml", Settings, [f"warehouse={warehouse}"])
