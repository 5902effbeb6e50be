"""The item catalog as plain tensors: what the model needs to know about items beside its weights.

V vocabulary rows (0 padding, 1 unknown, items from 2), T tokens per item, X distinct texts, K known tokens, D width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from precise_core.errors import ModelError

PADDING = 0
UNKNOWN = 1
FIRST_ITEM = 2


@dataclass(frozen=True)
class ItemCatalog:
    """Token ids of every vocabulary row; row i is ``item_index`` i. Rows 0 and 1 have no tokens.

    Args:
        token_ids_VT: int32, right-padded.
        token_counts_V: int32, real tokens of each row; 0 = no text.
        tokenizer_id: Name and content hash of the tokenizer; a checkpoint fits one tokenizer only.
    """

    token_ids_VT: torch.Tensor
    token_counts_V: torch.Tensor
    tokenizer_id: str

    def __post_init__(self) -> None:
        V, T = self.token_ids_VT.shape
        if self.token_counts_V.shape != (V,) or V < FIRST_ITEM:
            raise ModelError(f"item catalog: {V} rows of tokens, {tuple(self.token_counts_V.shape)} counts")
        if int(self.token_counts_V.max()) > T or int(self.token_counts_V.min()) < 0:
            raise ModelError(f"item catalog: token counts must be from 0 to {T}")

    @property
    def num_rows(self) -> int:
        """V, rows 0 and 1 included."""
        return self.token_ids_VT.shape[0]

    @property
    def max_token_length(self) -> int:
        """T."""
        return self.token_ids_VT.shape[1]

    @property
    def known_token_ids(self) -> torch.Tensor:
        """The token ids that occur, sorted, int64."""
        real_VT = torch.arange(self.max_token_length) < self.token_counts_V[:, None]
        return torch.unique(self.token_ids_VT[real_VT]).long()

    @cached_property
    def text_rows_V(self) -> torch.Tensor:
        """Number of the distinct text of each row: many items share one text, which is then fused once."""
        return self._distinct_texts[1]

    @cached_property
    def text_items_X(self) -> torch.Tensor:
        """One row that carries each distinct text."""
        return self._distinct_texts[0]

    @cached_property
    def _distinct_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.concatenate([self.token_counts_V.numpy()[:, None], self.token_ids_VT.numpy()], axis=1)
        keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return torch.from_numpy(first), torch.from_numpy(inverse)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file that executors can memory-map."""
        tensors = {"token_ids": self.token_ids_VT.contiguous(), "token_counts": self.token_counts_V.contiguous()}
        save_file(tensors, str(path), metadata={"catalog": json.dumps({"tokenizer_id": self.tokenizer_id})})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ItemCatalog:
        """Read what ``save`` wrote.

        Raises:
            ModelError: The file is missing or is not an item catalog.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                described = json.loads((file.metadata() or {})["catalog"])
                return cls(file.get_tensor("token_ids"), file.get_tensor("token_counts"), described["tokenizer_id"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path}: not an item catalog: {error}") from error


@dataclass(frozen=True)
class TokenInit:
    """Initial rows of the token table (mode `vocab`).

    Args:
        token_ids_K: int64.
        vectors_KD: float32, of the model's token width.
        language_model: Name and content hash of the language model they come from.
    """

    token_ids_K: torch.Tensor
    vectors_KD: torch.Tensor
    language_model: str
