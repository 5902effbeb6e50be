"""PRECISE: Embedding Fusion, a sequence encoder, and a user vector (section IV; https://arxiv.org/abs/2412.06308).

B batch, L positions, N items, T text tokens, D width of an item vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.catalog import ItemCatalog
from precise_core.models.config import ModelConfig
from precise_core.models.dropout import Dropout
from precise_core.models.encoders import ENCODERS
from precise_core.models.fusion import ItemFusion
from precise_core.models.late_fusion import EncoderPerHalf
from precise_core.models.text_layers import LayerSizes
from precise_core.models.times import Times

Stage = Literal["universal", "targeted"]

_MASK_STD = 0.02
_SMALLEST_SQUARE = 1e-24
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.01, 1.0


class Precise(nn.Module):
    """The model of one stage.

    `universal` (IV-C): causal; h_u is the last position's state. `targeted` (IV-D): no mask;
    h'_u = MLP(CONCAT(h_1 .. h_n)) over positions left-padded to ``max_length``, plus the last state where
    ``residual_head`` is on: the MLP's last layer starts at zero, so step 0 ranks as the last state does.

    Args:
        num_item_rows: Rows of the id table, padding and unknown included.
        known_token_ids: int64, sorted: tokens with a row of their own.
        max_token_length: T; kept so that serving can refuse a catalog of another length.
        state_width: Width of the language model's states, where the model reads them.
        layer_sizes: Of the language model's layers, where some are part of the model (``token_init: top_layers``).

    >>> model = Precise(ModelConfig(), num_item_rows=10, known_token_ids=torch.tensor([5]), stage="universal",
    ...                 max_token_length=3).eval()
    >>> e_1LD = model.item_embeddings(torch.tensor([2, 3]), torch.zeros(2, 3).long(), torch.zeros(2))[None]
    >>> model.user_embeddings(e_1LD, torch.ones(1, 2, dtype=torch.bool)).shape
    torch.Size([1, 256])
    """

    def __init__(
        self,
        config: ModelConfig,
        num_item_rows: int,
        known_token_ids: torch.Tensor,
        stage: Stage,
        max_token_length: int,
        state_width: int | None = None,
        layer_sizes: LayerSizes | None = None,
    ) -> None:
        super().__init__()
        self.config, self.stage = config, stage
        self.num_item_rows, self.max_token_length = num_item_rows, max_token_length
        self.fusion = ItemFusion(config.fusion, num_item_rows, known_token_ids, state_width, layer_sizes)
        is_masked = config.prediction == "masked_item"
        if is_masked and stage == "targeted":
            raise ModelError("prediction masked_item has no targeted stage: train it on the task's windows instead")
        is_causal = stage == "universal" and not is_masked
        kind = ENCODERS[config.encoder.kind]
        encoders = [kind(config.encoder, width, is_causal) for width in config.part_widths]
        self.encoder = EncoderPerHalf(encoders, config.part_widths) if config.late_fusion else encoders[0]
        self.mask_vector_D = nn.Parameter(torch.randn(config.fusion.width) * _MASK_STD) if is_masked else None
        start = torch.tensor(math.log(config.temperature))
        self.log_temperature = nn.Parameter(
            start.repeat(2) if config.late_fusion else start, requires_grad=config.learned_temperature
        )
        self.head = ConcatHead(config) if stage == "targeted" else None
        # From the space that it was trained in to the one it is served in; of the checkpoint, not of the weights.
        self.space_map_DD: torch.Tensor | None
        self.register_buffer("space_map_DD", None, persistent=False)

    @property
    def width(self) -> int:
        """D, of item and of user vectors."""
        return self.config.fusion.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_temperature.device

    def item_embeddings(
        self, item_indices_N: torch.Tensor, token_ids_NT: torch.Tensor, token_counts_N: torch.Tensor
    ) -> torch.Tensor:
        """e_ND (eq. 4) of any items, also of items newer than the checkpoint."""
        return self.fusion(item_indices_N, token_ids_NT, token_counts_N)

    def position_states(
        self,
        e_BLD: torch.Tensor,
        valid_mask_BL: torch.Tensor,
        at_BQ: torch.Tensor | None = None,
        times: Times | None = None,
    ) -> torch.Tensor:
        """h of the last layer at the positions ``at_BQ``, or at all of them; zero at padding.

        ``times`` is for models whose encoder reads them, as in ``user_embeddings``.
        """
        return self.encoder(e_BLD, valid_mask_BL, at_BQ, times)

    def masked(self, e_BLD: torch.Tensor, masked_BL: torch.Tensor | None) -> torch.Tensor:
        """Item vectors with the mask vector where ``masked_BL`` is True; unchanged where it is None."""
        if masked_BL is None or self.mask_vector_D is None:
            return e_BLD
        return torch.where(masked_BL[:, :, None], self.mask_vector_D, e_BLD)

    def user_embeddings(
        self, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor, times: Times | None = None
    ) -> torch.Tensor:
        """h_BD of left-padded sequences; a sequence without any item has a finite one, zero under a residual head."""
        if self.head is not None:
            return self.head(self.position_states(e_BLD, valid_mask_BL, times=times))
        if self.mask_vector_D is not None:
            e_BLD, valid_mask_BL, times = self._with_mask_behind(self.mask_vector_D, e_BLD, valid_mask_BL, times)
        newest_B1 = torch.full((len(e_BLD), 1), e_BLD.shape[1] - 1, device=e_BLD.device)
        return self.position_states(e_BLD, valid_mask_BL, newest_B1, times)[:, 0]

    def _with_mask_behind(
        self, mask_D: torch.Tensor, e_BLD: torch.Tensor, valid_mask_BL: torch.Tensor, times: Times | None
    ) -> tuple[torch.Tensor, torch.Tensor, Times | None]:
        """Append a masked position for the next item; the oldest is dropped where ``max_length`` is reached."""
        kept = slice(max(0, e_BLD.shape[1] + 1 - self.encoder.max_length), None)
        mask_B1D = mask_D.to(e_BLD.dtype).expand(len(e_BLD), 1, -1)
        if times is not None:  # the mask stands for what happens when the user is asked
            events_BL = torch.cat([times.events_BL[:, kept], times.asked_BL[:, -1:]], dim=1)
            times = Times(events_BL, events_BL)
        e_BLD, valid_mask_BL = e_BLD[:, kept], F.pad(valid_mask_BL[:, kept], (0, 1), value=True)
        return torch.cat([e_BLD, mask_B1D], dim=1), valid_mask_BL, times

    def serving_item_vectors(self, e_ND: torch.Tensor) -> torch.Tensor:
        """Item vectors whose plain dot product with serving user vectors is the score."""
        return self._in_served_space(self._item_vectors(e_ND))

    def _item_vectors(self, e_ND: torch.Tensor) -> torch.Tensor:
        """Item vectors as their products are taken, in the space of training."""
        return self._directions(self._item_states(e_ND))

    def _item_states(self, e_ND: torch.Tensor) -> torch.Tensor:
        """What comes out of the item's tower: e itself, or the state of a sequence of the item alone."""
        if self.config.item_tower == "none":
            return e_ND
        e_N1D = e_ND.flatten(0, -2)[:, None]
        valid_N1 = torch.ones(e_N1D.shape[:2], dtype=torch.bool, device=e_N1D.device)
        return self.position_states(e_N1D, valid_N1, times=Times.just_now(len(e_N1D), self.device)).view_as(e_ND)

    def serving_user_vectors(self, h_BD: torch.Tensor) -> torch.Tensor:
        """User vectors whose plain dot product with serving item vectors is the score.

        Under late fusion the cosine of either half counts by the inverse of its temperature; the weights add up to 1.
        """
        is_weighted = self.config.similarity == "cosine" and self.config.late_fusion
        users_BD = self._query_vectors(h_BD) * self.temperature if is_weighted else self._directions(h_BD)
        return self._in_served_space(users_BD)

    def _in_served_space(self, x_ND: torch.Tensor) -> torch.Tensor:
        """An orthogonal map of users and items alike leaves every product, and so every score, as it is."""
        return x_ND if self.space_map_DD is None else x_ND @ self.space_map_DD

    def logits(self, h_PD: torch.Tensor, e_ND: torch.Tensor) -> torch.Tensor:
        """Scores for a softmax, P x N: the serving score, under cosine divided by the temperature."""
        return self._query_vectors(h_PD) @ self._item_vectors(e_ND).T

    def logits_of_parts(self, h_PD: torch.Tensor, e_ND: torch.Tensor) -> list[torch.Tensor]:
        """The summands of ``logits``, each P x N: one, or under late fusion one of either half."""
        queries, items = self._parts(self._query_vectors(h_PD)), self._parts(self._item_vectors(e_ND))
        return [query_Pd @ item_Nd.T for query_Pd, item_Nd in zip(queries, items, strict=True)]

    def pair_logits_of_parts(self, h_PD: torch.Tensor, e_PMD: torch.Tensor) -> list[torch.Tensor]:
        """The same of M items of each row's own, each P x M."""
        products_PMD = self._query_vectors(h_PD)[:, None, :] * self._item_vectors(e_PMD)
        return [part_PMd.sum(dim=-1) for part_PMd in self._parts(products_PMD)]

    def _query_vectors(self, h_PD: torch.Tensor) -> torch.Tensor:
        """User vectors divided by the temperature: P x D numbers to divide instead of P x N."""
        users_PD = self._directions(h_PD)
        if self.config.similarity == "dot":
            return users_PD
        temperatures = self._temperatures
        if not self.config.late_fusion:
            return users_PD / temperatures
        widths = torch.tensor(self.config.part_widths, device=users_PD.device)
        return users_PD / temperatures.repeat_interleave(widths)

    def _directions(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Vectors as their products are taken: under cosine every part has length 1."""
        if self.config.similarity == "dot":
            return x_ND
        return (
            torch.cat([_unit(part) for part in self._parts(x_ND)], dim=-1) if self.config.late_fusion else _unit(x_ND)
        )

    def _parts(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x_ND.split(self.config.part_widths, dim=-1)

    @property
    def temperature(self) -> torch.Tensor:
        """``logits`` times this are the serving scores; learned, between 0.01 and 1."""
        return 1 / (1 / self._temperatures).sum()

    @property
    def _temperatures(self) -> torch.Tensor:
        """Of each part."""
        return self.log_temperature.exp().clamp(_MIN_TEMPERATURE, _MAX_TEMPERATURE)


class ConcatHead(nn.Module):
    """MLP(CONCAT(h_1 .. h_n)) (IV-D), n = max_length; see ``Precise`` for the residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.fusion.width
        self.max_length, self.is_residual = config.encoder.max_length, config.residual_head
        self.hidden = nn.Sequential(
            nn.Linear(self.max_length * D, config.head_width), nn.GELU(), Dropout(config.encoder.dropout)
        )
        self.out = nn.Linear(config.head_width, D)
        if self.is_residual:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, h_BLD: torch.Tensor) -> torch.Tensor:
        missing = self.max_length - h_BLD.shape[1]
        mixed_BD = self.out(self.hidden(F.pad(h_BLD, (0, 0, missing, 0)).flatten(1)))
        return h_BLD[:, -1] + mixed_BD if self.is_residual else mixed_BD


def _unit(x_ND: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, zero where they are zero; half the cost of ``F.normalize`` and its gradient."""
    return x_ND * torch.rsqrt(x_ND.square().sum(dim=-1, keepdim=True) + _SMALLEST_SQUARE)


def fuse_distinct(model: Precise, catalog: ItemCatalog, *item_indices: torch.Tensor) -> list[torch.Tensor]:
    """Item embeddings of several index tensors; an item is fused once, and so is a text that many items share.

    Args:
        model: Its device and mode (training or not) are used as they are.
        catalog: Tokens of the items, and states of their texts for a contextual model; rows beyond it are treated as
            items without text.
        item_indices: int64 tensors of any shape, on the model's device; the catalog keeps copies of its tables there.

    Returns:
        One tensor per argument, of its shape plus D.
    """
    flat = torch.cat([indices.reshape(-1) for indices in item_indices])
    distinct_N, inverse = torch.unique(flat, return_inverse=True)
    e_ND = _fuse(model.fusion, catalog, distinct_N)
    parts = F.embedding(inverse, e_ND).split([indices.numel() for indices in item_indices])
    shapes: Sequence[torch.Size] = [indices.shape for indices in item_indices]
    return [part.view(*shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def _fuse(fusion: ItemFusion, catalog: ItemCatalog, item_indices_N: torch.Tensor) -> torch.Tensor:
    halves = [fusion.id_half(item_indices_N)] if fusion.has_id else []
    if fusion.has_text:
        texts_X, text_of_N = torch.unique(catalog.text_rows(item_indices_N), return_inverse=True)
        halves.append(F.embedding(text_of_N, fusion.catalog_texts(catalog, texts_X)))
    return torch.cat(halves, dim=-1)
