"""Find, load and run the language model that reads item text (eq. 2)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from precise_core.errors import ConfigError

# Never reach for a hub: a model comes from an installed package or a folder.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def language_model_folder(name: str) -> Path:
    """The folder of a Hugging Face model: a path, or the `model/` folder of an installed package.

    Raises:
        ConfigError: Neither a folder nor an installed package, or a folder without model or tokenizer.
    """
    folder = Path(name)
    if not folder.is_dir():
        module = name.replace("-", "_")
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"text.language_model {name!r}: neither a folder nor an installed package with a model")
        folder = Path(spec.submodule_search_locations[0]) / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"text.language_model {name!r}: {folder.name}/config.json is missing; not a Hugging Face model"
        )
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise ConfigError(
            f"text.language_model {name!r}: no tokenizer in the folder; expected one of {_TOKENIZER_FILES}"
        )
    return folder


@lru_cache(maxsize=4)
def tokenizer_id(name: str) -> str:
    """`<name>@<12 hex>` over the tokenizer's files: two tables tokenized alike have the same id."""
    folder = language_model_folder(name)
    return f"{Path(name).name}@{_digest([folder / file for file in _TOKENIZER_FILES])}"


@lru_cache(maxsize=4)
def language_model_id(name: str) -> str:
    """`<name>@<12 hex>` over configuration and weights."""
    folder = language_model_folder(name)
    weights = [file for pattern in _WEIGHTS for file in sorted(folder.glob(pattern))]
    return f"{Path(name).name}@{_digest([folder / 'config.json', *weights])}"


@lru_cache(maxsize=2)
def load_tokenizer(name: str) -> Any:
    """The tokenizer of the language model, without remote code."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(language_model_folder(name)), trust_remote_code=False)


@lru_cache(maxsize=2)
def load_language_model(name: str) -> Any:
    """The language model in evaluation mode, without remote code."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(str(language_model_folder(name)), trust_remote_code=False).eval()


def tokenize(name: str, texts: list[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of texts, without special tokens (they carry no content of the item).

    Returns:
        ``(token_ids_NT int32, token_counts_N int32)``, right-padded with 0 to T = ``max_tokens``.
    """
    token_ids_NT = np.zeros((len(texts), max_tokens), dtype=np.int32)
    token_counts_N = np.zeros(len(texts), dtype=np.int32)
    if texts:
        encoded = load_tokenizer(name)(texts, add_special_tokens=False, truncation=True, max_length=max_tokens)
        for row, ids in enumerate(encoded["input_ids"]):
            token_ids_NT[row, : len(ids)] = ids
            token_counts_N[row] = len(ids)
    return token_ids_NT, token_counts_N


def token_state_sums(name: str, token_ids_NT: np.ndarray, token_counts_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sum of the last hidden states of each token id over its occurrences.

    The texts are read with the model's special tokens around them, whose own states are left out.

    Args:
        name: Language model.
        token_ids_NT: Right-padded token ids.
        token_counts_N: Real tokens per row.

    Returns:
        ``(token_ids_K int32 ascending, sums_KH float64, counts_K int64)``.
    """
    import torch

    tokenizer, model = load_tokenizer(name), load_language_model(name)
    rows = [row[:count].tolist() for row, count in zip(token_ids_NT, token_counts_N, strict=True) if count]
    if not rows:
        width = model.config.hidden_size
        return np.zeros(0, np.int32), np.zeros((0, width)), np.zeros(0, np.int64)
    prefix, suffix = _special_tokens(name)
    wrapped = [[*prefix, *row, *suffix] for row in rows]
    content = [[0] * len(prefix) + [1] * len(row) + [0] * len(suffix) for row in rows]
    longest = max(map(len, wrapped))
    pad = tokenizer.pad_token_id or 0
    ids_NS = torch.tensor([row + [pad] * (longest - len(row)) for row in wrapped])
    attend_NS = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in wrapped])
    content_NS = torch.tensor([row + [0] * (longest - len(row)) for row in content]).bool()
    with torch.inference_mode():
        states_NSH = model(input_ids=ids_NS, attention_mask=attend_NS).last_hidden_state
    token_ids_K, inverse_M, counts_K = torch.unique(ids_NS[content_NS], return_inverse=True, return_counts=True)
    sums_KH = torch.zeros(len(token_ids_K), states_NSH.shape[-1], dtype=torch.float64)
    sums_KH.index_add_(0, inverse_M, states_NSH[content_NS].double())
    return token_ids_K.numpy().astype(np.int32), sums_KH.numpy(), counts_K.numpy()


@lru_cache(maxsize=2)
def _special_tokens(name: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text, read off a probe; empty for most decoders."""
    tokenizer = load_tokenizer(name)
    bare = tokenizer("word", add_special_tokens=False)["input_ids"]
    wrapped = tokenizer("word", add_special_tokens=True)["input_ids"]
    start = next(i for i in range(len(wrapped)) if wrapped[i : i + len(bare)] == bare)
    return wrapped[:start], wrapped[start + len(bare) :]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
