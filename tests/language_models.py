"""Hugging Face folders of tiny random models, and tables of vectors as a model would write, where a test wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from deltalake import write_deltalake
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from precise_core.warehouse.reader import DeltaSnapshot
from schemas import TOKEN_EMBEDDINGS
from schemas import columns as c

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "white", "wine", "glass", "bread", "##s"]


def bert_folder(
    folder: Path, *, seed: int = 0, words: int = len(WORDS), rows: int | None = None, width: int = 16
) -> str:
    """An encoder that adds [CLS] and [SEP]; ``rows`` of embeddings for a tokenizer of ``words`` words."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=rows or words,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder)
    names = WORDS + [f"word{i}" for i in range(words - len(WORDS))]
    BertTokenizer(vocab={word: i for i, word in enumerate(names)}).save_pretrained(folder)
    return str(folder)


def decoder_folder(folder: Path, family: str, *, seed: int = 0) -> str:
    """A causal model in half precision with spare embedding rows, as such models are published.

    Llama reads a begin token first and has no padding token; Qwen reads letters (byte-level BPE without merges) and
    nothing around a text.
    """
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    if family == "llama":
        LlamaForCausalLM(LlamaConfig(**sizes)).to(torch.bfloat16).save_pretrained(folder)
        words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        words.pre_tokenizer = Whitespace()
        words.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", WORDS.index("[CLS]"))])
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    else:
        Qwen2ForCausalLM(Qwen2Config(**sizes)).to(torch.bfloat16).save_pretrained(folder)
        letters = sorted(set("".join(WORDS).lower()) | {"\u0120", "o"})
        Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]).save_pretrained(folder)
    return str(folder)


def write_vectors(folder: Path, language_model: str, vector: list[float]) -> DeltaSnapshot:
    """A table `token_embeddings` of five tokens."""
    rows = [
        {c.TOKEN_ID: i, c.VECTOR: [v + i % 3 for v in vector], c.COUNT: 1, c.LANGUAGE_MODEL: language_model}
        for i in range(5)
    ]
    write_deltalake(str(folder), pa.Table.from_pylist(rows, schema=TOKEN_EMBEDDINGS.arrow_schema()))
    return DeltaSnapshot(folder)
