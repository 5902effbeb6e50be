"""A language model that changes between two nights: old vectors are never taken for those of the new one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.command import EXIT_FAILED
from precise_core.errors import DataError
from precise_core.feed.catalog import require_language_model
from precise_core.text.language_model import language_model_id, tokenizer_id, vectors_id
from precise_core.training.checkpoint import latest
from schemas import ITEM_TOKENS
from schemas import columns as c
from tests import vector_world
from tests.language_models import bert_folder, write_vectors
from tests.night import run, said
from tests.torch_world import world_snapshot


def embedding_world(warehouse: Path, model: str) -> None:
    """A warehouse made by hand in front of the language model, with the texts tokenized by ``model``."""
    vector_world.build(warehouse)
    rows = [vector_world.tokens(index) | {c.TOKENIZER_ID: tokenizer_id(model)} for index in vector_world.INDICES]
    vector_world.make(warehouse, ITEM_TOKENS, rows)
    world_snapshot(warehouse / "tables" / "training_windows")


@pytest.mark.parametrize(
    ("mode", "change"),
    [("vocab", {"seed": 1}), ("input", {"width": 32}), ("contextual", {"seed": 1})],
    ids=["vocab, other weights", "input, another width", "contextual, other weights"],
)
def test_a_training_after_a_change_of_the_language_model_waits_for_embed_tokens(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, change: dict[str, int]
) -> None:
    """The tokenizer is the same in both, so that nothing else tells them apart."""
    assert spark is not None  # the jobs find the running session
    warehouse, table = tmp_path / "warehouse", "text_states" if mode == "contextual" else "token_embeddings"
    first = bert_folder(tmp_path / "first" / "lm", words=50)
    second = bert_folder(tmp_path / "second" / "lm", words=50, **change)
    assert tokenizer_id(first) == tokenizer_id(second) and language_model_id(first) != language_model_id(second)
    embedding_world(warehouse, first)

    def run_with(job: str, model: str) -> int:
        settings = ("feed.reader=arrow", "universal.epochs=1", f"model.fusion.token_init={mode}")
        changes = (*settings, f"text.language_model={model}", "text.max_tokens=3")
        return run(job, warehouse, *(part for change in changes for part in ("--set", change)))

    assert [run_with(job, first) for job in ("embed_tokens", "train_universal")] == [0, 0]
    good = latest(warehouse / "checkpoints", "all")
    capsys.readouterr()
    assert run_with("train_universal", second) == EXIT_FAILED
    written = vectors_id(language_model_id(first), is_input=mode == "input")
    message = f"written by language model {written}, text.language_model is {language_model_id(second)}; "
    assert re.search(f"table {table}, version \\d+: {message}run jobs/embed_tokens.py first", said(capsys))
    assert latest(warehouse / "checkpoints", "all").model_version == good.model_version

    assert [run_with(job, second) for job in ("embed_tokens", "train_universal")] == [0, 0]
    renewed = latest(warehouse / "checkpoints", "all")
    assert renewed.manifest.language_model == vectors_id(language_model_id(second), is_input=mode == "input")


def test_a_machine_without_the_language_model_compares_its_name(tmp_path: Path) -> None:
    for mode, suffix in (("vocab", ""), ("input", "#input")):
        table = write_vectors(tmp_path / mode, f"lm@1{suffix}", [1.0, 2.0])
        require_language_model(table, "models/lm")
        with pytest.raises(DataError, match=rf"table {mode}, .* lm@1{suffix}, text\.language_model is x;"):
            require_language_model(table, "models/x")
