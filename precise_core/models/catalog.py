"""The item catalog as plain tensors: the model's inputs about items beside its weights.

V vocabulary rows (0 padding, 1 unknown, items from 2), T tokens per item, X distinct texts, K known tokens, D width,
S tokens of all texts together, H width of the language model.
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
from schemas import columns as c


@dataclass(frozen=True)
class TextStates:
    """Hidden states of the catalog's texts, for models with ``token_init: contextual``, ``sentence``, ``top_layers``.

    Args:
        states_SH: float32; the states of a text's tokens are neighbours.
        starts_V: int64, where the states of each vocabulary row's text start; rows with one text share a start.
        language_model: Name and content hash of the language model, and which of its layers where it is not the last; a
            checkpoint fits one only.
        special_tokens: States of each text beyond those of its tokens, of what the language model puts around it.
    """

    states_SH: torch.Tensor
    starts_V: torch.Tensor
    language_model: str
    special_tokens: int = 0

    @property
    def width(self) -> int:
        """H."""
        return self.states_SH.shape[1]


@dataclass(frozen=True)
class ItemCatalog:
    """Token ids of every vocabulary row; row i is ``item_index`` i. Rows 0 and 1 have no tokens.

    Args:
        token_ids_VT: int32, right-padded.
        token_counts_V: int32, real tokens of each row; 0 = no text.
        tokenizer_id: Name and content hash of the tokenizer; a checkpoint fits one tokenizer only.
        states: Hidden states of every text; None where no model needs them.
    """

    token_ids_VT: torch.Tensor
    token_counts_V: torch.Tensor
    tokenizer_id: str
    states: TextStates | None = None

    def __post_init__(self) -> None:
        V, T = self.token_ids_VT.shape
        if self.token_counts_V.shape != (V,) or V < c.FIRST_ITEM_INDEX:
            raise ModelError(f"item catalog: {V} rows of tokens, {tuple(self.token_counts_V.shape)} counts")
        if int(self.token_counts_V.max()) > T or int(self.token_counts_V.min()) < 0:
            raise ModelError(f"item catalog: token counts must be from 0 to {T}")
        if self.states is not None:
            starts_V, S = self.states.starts_V, len(self.states.states_SH)
            has_text_V, ends_V = self.token_counts_V > 0, starts_V + self.state_counts(self.token_counts_V)
            if starts_V.shape != (V,) or not ((starts_V >= 0) & (ends_V <= S))[has_text_V].all():
                raise ModelError(f"item catalog: the states of {V} rows must start and end within {S} states")

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

    def text_rows(self, item_indices_N: torch.Tensor) -> torch.Tensor:
        """Number of the text of each item, on the device of the items; a row beyond the catalog has no text."""
        rows_V = self._kept("text_rows_V", item_indices_N.device)
        return rows_V[item_indices_N.where(item_indices_N < self.num_rows, 0)]

    def text_counts(self, texts_N: torch.Tensor) -> torch.Tensor:
        """int64, tokens of some distinct texts, on the device of ``texts_N``."""
        return self._kept("text_counts_X", texts_N.device)[texts_N]

    @cached_property
    def text_items_X(self) -> torch.Tensor:
        """One row that carries each distinct text."""
        return self._distinct_texts[0]

    @cached_property
    def text_counts_X(self) -> torch.Tensor:
        """int64, tokens of each distinct text."""
        return self.token_counts_V[self.text_items_X].long()

    def state_counts(self, token_counts_N: torch.Tensor) -> torch.Tensor:
        """States of texts of so many tokens; 0 where there is no text."""
        special_tokens = self.states.special_tokens if self.states else 0
        return token_counts_N + special_tokens * (token_counts_N > 0)

    def text_token_rows_XT(self, known_token_ids_W: torch.Tensor) -> torch.Tensor:
        """Rows of the token table (``token_rows``) of each distinct text, on the device of the model.

        Looked up once and kept for the model, since every batch of a training needs the same.
        """
        device = known_token_ids_W.device
        kept = self._kept_rows.get(device)
        if kept is None or not torch.equal(kept[0], known_token_ids_W):
            rows_XT = token_rows(known_token_ids_W, self.token_ids_VT[self.text_items_X].to(device))
            kept = self._kept_rows[device] = (known_token_ids_W.clone(), rows_XT)
        return kept[1]

    def text_states_SH(self, texts_N: torch.Tensor) -> torch.Tensor:
        """All states of some distinct texts, text after text; ``state_counts`` of each.

        States stay on the CPU, because those of a catalog are larger than a GPU: those of the texts are moved to the
        device of ``texts_N``.
        """
        if self.states is None:
            raise ModelError(
                "the model reads hidden states of texts (model.fusion.token_init contextual, sentence or top_layers) "
                "and the item catalog has none; run jobs/embed_tokens.py with that mode and load the catalog with "
                "text_states"
            )
        device, texts_N = texts_N.device, texts_N.cpu()
        counts_N = self.state_counts(self.text_counts_X[texts_N])
        starts_N = self.states.starts_V[self.text_items_X[texts_N]]
        # Position of each state: its text's start plus its number within the text.
        firsts_N = counts_N.cumsum(0) - counts_N
        at_S = torch.arange(int(counts_N.sum())) + torch.repeat_interleave(starts_N - firsts_N, counts_N)
        return self.states.states_SH[at_S].to(device)

    @cached_property
    def _kept_rows(self) -> dict[torch.device, tuple[torch.Tensor, torch.Tensor]]:
        return {}

    def _kept(self, name: str, device: torch.device) -> torch.Tensor:
        """A tensor of texts on a device, copied once: every batch of a training needs it."""
        if (name, device) not in self._copies:
            self._copies[name, device] = getattr(self, name).to(device)
        return self._copies[name, device]

    @cached_property
    def _copies(self) -> dict[tuple[str, torch.device], torch.Tensor]:
        return {}

    @cached_property
    def _distinct_texts(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.concatenate([self.token_counts_V.numpy()[:, None], self.token_ids_VT.numpy()], axis=1)
        keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return torch.from_numpy(first), torch.from_numpy(inverse)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file that executors can memory-map."""
        tensors = {"token_ids": self.token_ids_VT, "token_counts": self.token_counts_V}
        described: dict[str, str | int] = {"tokenizer_id": self.tokenizer_id}
        if self.states is not None:
            tensors |= {"states": self.states.states_SH, "state_starts": self.states.starts_V}
            described |= {"language_model": self.states.language_model, "special_tokens": self.states.special_tokens}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, str(path), metadata={"catalog": json.dumps(described)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> ItemCatalog:
        """Read what ``save`` wrote; the tensors stay in the file until they are read."""
        try:
            with safe_open(str(path), framework="pt") as file:
                described, tensor = json.loads((file.metadata() or {})["catalog"]), file.get_tensor
                states = None
                if "language_model" in described:
                    made_by = described["language_model"], described["special_tokens"]
                    states = TextStates(tensor("states"), tensor("state_starts"), *made_by)
                return cls(tensor("token_ids"), tensor("token_counts"), described["tokenizer_id"], states)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path}: not an item catalog: {error}") from error


def token_rows(known_token_ids_W: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows of the token table: 1 + position among the known ids (sorted), 0 for any other token.

    By binary search, so that no array of the tokenizer's size is needed.
    """
    if not len(known_token_ids_W):
        return torch.zeros_like(token_ids, dtype=torch.long)
    ids = token_ids.long()
    rows = torch.searchsorted(known_token_ids_W, ids).clamp(max=len(known_token_ids_W) - 1)
    return (rows + 1).where(known_token_ids_W[rows] == ids, 0)


@dataclass(frozen=True)
class TokenInit:
    """Initial rows of the token table (modes `vocab` and `input`).

    Args:
        token_ids_K: int64.
        vectors_KD: float32, of the model's token width.
        language_model: Name and content hash of the language model they come from.
    """

    token_ids_K: torch.Tensor
    vectors_KD: torch.Tensor
    language_model: str
