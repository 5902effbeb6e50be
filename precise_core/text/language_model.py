"""Find, load and run the language model that reads item text (eq. 2): the one file of the room that needs torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from precise_core.errors import ConfigError

# No downloads: a model comes from an installed package or a folder.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

INPUT_SUFFIX = "#input"

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
            raise _refusal(name, "neither a folder nor an installed package with a model")
        folder = Path(spec.submodule_search_locations[0]) / "model"
    if not (folder / "config.json").is_file():
        raise _refusal(name, f"{folder.name}/config.json is missing; not a Hugging Face model")
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise _refusal(name, f"no tokenizer in the folder; expected one of {_TOKENIZER_FILES}")
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


def states_id(name: str, trained_layers: int) -> str:
    """The column `language_model` of `text_states` for `top_layers`: `<id>#<layer>+<special tokens of a text>`.

    The layer is the one whose states are kept: the last but ``trained_layers``.
    """
    prefix, suffix = _special_tokens(name)
    return f"{language_model_id(name)}#{_kept_layer(name, trained_layers)}+{len(prefix) + len(suffix)}"


def special_tokens_of(language_model: str) -> int:
    """How many states of special tokens each text has in `text_states`; 0 in other modes than `top_layers`.

    Args:
        language_model: The column `language_model`.
    """
    _, is_layer, layer = language_model.partition("#")
    return int(layer.rpartition("+")[2]) if is_layer else 0


def vectors_id(language_model: str, is_input: bool) -> str:
    """The column `language_model` of `token_embeddings`: the model's id, with `#input` for its input embeddings."""
    return f"{language_model}{INPUT_SUFFIX}" if is_input else language_model


@lru_cache(maxsize=2)
def load_tokenizer(name: str) -> Any:
    """The tokenizer of the language model, without remote code; ConfigError where its files cannot be read."""
    from transformers import AutoTokenizer

    folder = language_model_folder(name)
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise _refusal(name, f"its tokenizer cannot be read: {_first_line(error)}") from error


@lru_cache(maxsize=2)
def load_language_model(name: str) -> Any:
    """The language model, encoder or decoder, in evaluation mode and single precision, without remote code.

    Raises:
        ConfigError: The weights are not those that config.json describes, some are missing, the model needs a second
            text to decode, or the tokenizer has ids that the model has no row for.
    """
    import torch
    from transformers import AutoModel

    folder, width = language_model_folder(name), hidden_size(name)
    try:
        model, report = AutoModel.from_pretrained(
            str(folder), trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # what from_pretrained raises depends on the file that is wrong
        why = f"the weights do not fit config.json (hidden_size {width}): {_first_line(error)}"
        raise _refusal(name, why) from error
    # Only the layer behind the hidden states may be absent: anything else would start at random.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        why = f"{len(missing)} weights that config.json asks for are not in the folder, first {missing[0]}"
        raise _refusal(name, why)
    if model.config.is_encoder_decoder:
        raise _refusal(name, "is an encoder-decoder; an encoder or a decoder alone is needed")
    rows, highest = len(model.get_input_embeddings().weight), max(load_tokenizer(name).get_vocab().values())
    if highest >= rows:
        raise _refusal(
            name,
            f"the tokenizer goes up to id {highest}, the model has embeddings for ids 0 to {rows - 1}; model and "
            "tokenizer are not of one folder",
        )
    return model.eval()


def hidden_size(name: str) -> int:
    """H: components of a hidden state; ConfigError where config.json cannot be read."""
    return _size(name, "hidden_size")


def _size(name: str, size: str) -> int:
    """A number of config.json."""
    from transformers import AutoConfig

    folder = language_model_folder(name)
    try:
        return int(getattr(AutoConfig.from_pretrained(str(folder), trust_remote_code=False), size))
    except Exception as error:  # not JSON, an unknown model type, or no such number: each has an error of its own
        raise _refusal(name, f"no {size} in config.json: {_first_line(error)}") from error


def check_language_model(name: str, max_tokens: int) -> None:
    """Load the model once and release it, so that a wrong folder fails with one line before any Spark job.

    Raises:
        ConfigError: Texts of ``max_tokens`` are longer than the model can read.
    """
    prefix, suffix = _special_tokens(name)
    positions = getattr(load_language_model(name).config, "max_position_embeddings", None)
    load_language_model.cache_clear()
    longest = max_tokens + len(prefix) + len(suffix)
    if positions is not None and longest > positions:
        raise ConfigError(
            f"text.max_tokens {max_tokens}: with special tokens {longest} positions, text.language_model {name!r} "
            f"reads at most {positions}"
        )


def tokenize(name: str, texts: list[str], max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """``(token_ids_NT int32, token_counts_N int32)`` of texts, right-padded with 0 to T = ``max_tokens``.

    Without special tokens: they carry no content of the item.
    """
    rows = _content_tokens(load_tokenizer(name), texts, max_tokens) if texts else []
    token_counts_N = np.fromiter(map(len, rows), np.int32, len(rows))
    token_ids_NT = np.zeros((len(rows), max_tokens), dtype=np.int32)
    is_token_NT = np.arange(max_tokens) < token_counts_N[:, None]
    token_ids_NT[is_token_NT] = np.fromiter(chain.from_iterable(rows), np.int32, int(token_counts_N.sum()))
    return token_ids_NT, token_counts_N


def _content_tokens(tokenizer: Any, texts: list[str], max_tokens: int) -> list[list[int]]:
    if not tokenizer.is_fast:
        encoded = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=max_tokens)
        return list(encoded["input_ids"])
    # Without the wrapper, which also makes offsets and masks that are not needed (benchmarks/data/tokenization.py).
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(max_tokens, direction=tokenizer.truncation_side)
    backend.no_padding()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def hidden_states(name: str, token_ids_NT: np.ndarray, token_counts_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Last hidden state of every real token, text after text: ``(token_ids_S int32, states_SH float32)``.

    The texts are read with the model's special tokens around them, whose own states are left out.

    Args:
        token_ids_NT: Right-padded token ids.
        token_counts_N: S real tokens in all texts together.
    """
    if not token_counts_N.any():
        return np.zeros(0, np.int32), np.zeros((0, hidden_size(name)), np.float32)
    ids_NP, _, content_NP, read = _read(name, token_ids_NT, token_counts_N)
    return ids_NP[content_NP].numpy().astype(np.int32), read.last_hidden_state[content_NP].numpy()


def lower_states(name: str, token_ids_NT: np.ndarray, token_counts_N: np.ndarray, trained_layers: int) -> np.ndarray:
    """What goes into the last ``trained_layers`` layers, text after text, special tokens included, float32.

    Arguments as for ``hidden_states``; a text without a token has no state.
    """
    if not token_counts_N.any():
        return np.zeros((0, hidden_size(name)), np.float32)
    kept = _kept_layer(name, trained_layers)
    _, attend_NP, _, read = _read(name, token_ids_NT, token_counts_N, output_hidden_states=True)
    return np.asarray(read.hidden_states[kept][attend_NP].numpy())


def top_layers(name: str, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last ``count`` layers: their sizes (heads, ffn_width, norm_epsilon, dropout), and their weights by name.

    Raises:
        ConfigError: There are fewer, or the model's layers are not those of BERT, which alone can be trained here.
    """
    config, kept = load_language_model(name).config, _kept_layer(name, count)
    found = config.model_type, getattr(config, "hidden_act", None)
    if found != ("bert", "gelu"):
        raise _refusal(name, f"is {found[0]} with {found[1]}; model.fusion.token_init top_layers trains BERT with gelu")
    sizes = {
        "heads": config.num_attention_heads,
        "ffn_width": config.intermediate_size,
        "norm_epsilon": config.layer_norm_eps,
        "dropout": config.hidden_dropout_prob,
    }
    return sizes, load_language_model(name).encoder.layer[kept:].state_dict()


def _kept_layer(name: str, trained_layers: int) -> int:
    """Number of the layer below the last ``trained_layers``; 0 = the input embeddings."""
    layers = _size(name, "num_hidden_layers")
    if trained_layers > layers:
        raise _refusal(name, f"has {layers} layers, model.fusion.trained_layers is {trained_layers}")
    return layers - trained_layers


def _read(name: str, token_ids_NT: np.ndarray, token_counts_N: np.ndarray, **asked: bool) -> tuple[Any, Any, Any, Any]:
    """The model over the texts that have a token: their ids in one padded matrix [N, P], where it is real, where it is
    the text's own, and what the model gives, ``asked`` of its ``forward`` too."""
    import torch

    tokenizer, model = load_tokenizer(name), load_language_model(name)
    rows = [row[:count].tolist() for row, count in zip(token_ids_NT, token_counts_N, strict=True) if count]
    prefix, suffix = _special_tokens(name)
    wrapped = [[*prefix, *row, *suffix] for row in rows]
    content = [[0] * len(prefix) + [1] * len(row) + [0] * len(suffix) for row in rows]
    longest = max(map(len, wrapped))
    pad = tokenizer.pad_token_id or 0
    ids_NP = torch.tensor([row + [pad] * (longest - len(row)) for row in wrapped])
    attend_NP = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in wrapped])
    content_NP = torch.tensor([row + [0] * (longest - len(row)) for row in content]).bool()
    with torch.inference_mode():
        read = model(input_ids=ids_NP, attention_mask=attend_NP, **asked)
    return ids_NP, attend_NP.bool(), content_NP, read


def token_state_sums(name: str, token_ids_NT: np.ndarray, token_counts_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sum of the last hidden states of each token id over its occurrences; arguments as for ``hidden_states``.

    Returns:
        ``(token_ids_K int32 ascending, sums_KH float64, counts_K int64)``.
    """
    import torch

    token_ids_S, states_SH = hidden_states(name, token_ids_NT, token_counts_N)
    token_ids_K, inverse_S, counts_K = np.unique(token_ids_S, return_inverse=True, return_counts=True)
    sums_KH = torch.zeros(len(token_ids_K), states_SH.shape[1], dtype=torch.float64)
    sums_KH.index_add_(0, torch.from_numpy(inverse_S), torch.from_numpy(states_SH).double())
    return token_ids_K, sums_KH.numpy(), counts_K


def input_vectors(name: str, token_ids_K: np.ndarray) -> np.ndarray:
    """Rows of the model's input embedding table, float32: a token before the model has read anything around it.

    Raises:
        ConfigError: A token id lies beyond the table.
    """
    import torch

    table = load_language_model(name).get_input_embeddings().weight
    if len(token_ids_K) and int(token_ids_K.max()) >= len(table):
        raise _refusal(
            name,
            f"item_tokens has token id {int(token_ids_K.max())}, the model has embeddings for ids 0 to "
            f"{len(table) - 1}; run jobs/tokenize_items.py first",
        )
    with torch.inference_mode():
        return np.asarray(table[torch.from_numpy(token_ids_K.astype(np.int64))].numpy())


@lru_cache(maxsize=2)
def _special_tokens(name: str) -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer puts before and after a text, found on a probe; empty for most decoders."""
    tokenizer = load_tokenizer(name)
    bare = tokenizer("word", add_special_tokens=False)["input_ids"]
    wrapped = tokenizer("word", add_special_tokens=True)["input_ids"]
    starts = [i for i in range(len(wrapped)) if bare and wrapped[i : i + len(bare)] == bare]
    if not starts:
        raise _refusal(
            name,
            f"its tokenizer reads 'word' as ids {bare}, with special tokens as {wrapped}; the first must be part of "
            "the second: do the tokenizer's files fit config.json?",
        )
    return wrapped[: starts[0]], wrapped[starts[0] + len(bare) :]


def _refusal(name: str, why: str) -> ConfigError:
    return ConfigError(f"text.language_model {name!r}: {why}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as content:
                while block := content.read(1 << 24):  # weights may be larger than memory
                    digest.update(block)
    return digest.hexdigest()[:12]
