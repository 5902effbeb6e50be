"""Embedding Fusion (section IV-B, eq. 3 and 4): item id and item text to one item embedding.

N items, X distinct texts, T text tokens, S tokens of all texts, K experts, W known tokens, D width of the half at hand,
H width of the language model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from precise_core.errors import ModelError
from precise_core.models.catalog import ItemCatalog, token_rows
from precise_core.models.config import FusionConfig
from precise_core.models.text_layers import LayerSizes, TextLayers
from schemas import columns as c

_ID_STD = 0.02


class ItemFusion(nn.Module):
    """e_i = ID(i) ⊕ MoE(x_i) (eq. 4; https://arxiv.org/abs/2412.06308), and its ablations (Table VI).

    `id` = ID(i) only, `llm` = masked mean of the tokens only, `pool` = ID(i) ⊕ masked mean, `moe` = the paper.

    Departures: the token table has one trained row per token id of the catalog instead of one tensor per item; an item
    that the checkpoint has not trained (newer, or with fewer than ``min_id_events`` events) uses the shared unknown row
    as its id half, which such items and ``id_dropout`` train; an item without tokens has a zero text half.
    ``token_init: contextual`` has no token table: the frozen hidden states of each text (`ItemCatalog.states`) go
    through a trained projection. So does, with `sentence`, their mean of length 1. `top_layers` has the last layers
    of the language model instead (`TextLayers`), without a projection.

    Args:
        num_item_rows: Rows of the id table, rows 0 (padding) and 1 (unknown) included.
        known_token_ids_W: int64, sorted: the tokens that get a row; any other token uses the unknown-token row.
        state_width: H; needed where hidden states are read and for nothing else.
        layer_sizes: Of the language model's layers; needed where ``trained_layers`` of them are.

    >>> fusion = ItemFusion(FusionConfig(id_width=4, token_width=4), 10, torch.tensor([5, 9]))
    >>> fusion(torch.tensor([3]), torch.tensor([[5, 9, 0]]), torch.tensor([2])).shape
    torch.Size([1, 8])
    """

    known_token_ids_W: torch.Tensor
    is_trained_V: torch.Tensor
    id_table: nn.Embedding
    token_table: nn.Embedding
    projection: nn.Linear
    layers: TextLayers
    text: MaskedMean | MixtureOfExperts

    def __init__(
        self,
        config: FusionConfig,
        num_item_rows: int,
        known_token_ids_W: torch.Tensor,
        state_width: int | None = None,
        layer_sizes: LayerSizes | None = None,
    ) -> None:
        super().__init__()
        self.config, self.state_width, self.layer_sizes = config, state_width, layer_sizes
        self.has_id, self.has_text = config.mode != "llm", config.mode != "id"
        self.register_buffer("known_token_ids_W", known_token_ids_W.long().clone())
        self.register_buffer("is_trained_V", torch.ones(num_item_rows, dtype=torch.bool))
        if self.has_id:
            self.id_table = nn.Embedding(num_item_rows, config.id_width)
            nn.init.normal_(self.id_table.weight, std=_ID_STD)
        if config.reads_states:
            if state_width is None:
                raise ModelError(f"model.fusion.token_init {config.token_init}: the width of the states is needed")
            if not config.has_text_layers:
                self.projection = nn.Linear(state_width, config.token_width)
            elif state_width != config.token_width:
                raise ModelError(
                    f"model.fusion.token_width {config.token_width}: with token_init top_layers a text is as wide as "
                    f"the language model's states, {state_width}"
                )
            else:
                self.layers = TextLayers(config.trained_layers, state_width, layer_sizes)
        elif self.has_text:
            self.token_table = nn.Embedding(len(known_token_ids_W) + 1, config.token_width)  # row 0 = unknown token
            nn.init.normal_(self.token_table.weight, std=1 / math.sqrt(config.token_width))
        if self.has_text:
            self.text = MixtureOfExperts(config) if config.mode == "moe" else MaskedMean()

    def set_trained_items(self, frequencies_V: torch.Tensor) -> None:
        """Set how many training events every item has; those with too few use the unknown row from now on.

        An item that had too few until now starts from a copy of the unknown row.
        """
        has_enough_V = frequencies_V >= self.config.min_id_events
        if self.has_id:
            with torch.no_grad():
                self.id_table.weight[has_enough_V & ~self.is_trained_V] = self.id_table.weight[c.UNKNOWN_INDEX].clone()
        self.is_trained_V.copy_(has_enough_V)

    def set_token_vectors(self, token_ids_K: torch.Tensor, vectors_KD: torch.Tensor) -> int:
        """Initialise the rows of known tokens from the language model; returns how many rows were set."""
        rows_K = token_rows(self.known_token_ids_W, token_ids_K)
        known_K = rows_K > 0
        with torch.no_grad():
            self.token_table.weight[rows_K[known_K]] = vectors_KD[known_K]
        return int(known_K.sum())

    def set_projection(self, mean_H: torch.Tensor, components_HD: torch.Tensor) -> None:
        """Start the projection of hidden states as (state - mean) · components."""
        with torch.no_grad():
            self.projection.weight.copy_(components_HD.T)
            self.projection.bias.copy_(-mean_H @ components_HD)

    def forward(
        self, item_indices_N: torch.Tensor, token_ids_NT: torch.Tensor, token_counts_N: torch.Tensor
    ) -> torch.Tensor:
        """e_ND of N items, halves side by side; not for models that read hidden states, see ``text_half``."""
        halves = [self.id_half(item_indices_N)] if self.has_id else []
        if self.has_text:
            halves.append(self.text_half(token_ids_NT, token_counts_N))
        return torch.cat(halves, dim=-1)

    def id_half(self, item_indices_N: torch.Tensor) -> torch.Tensor:
        """ID(i); the unknown row for items without training and, while training, for a random share."""
        rows_N = item_indices_N.clamp(max=len(self.is_trained_V) - 1)
        has_row_N = (item_indices_N == rows_N) & self.is_trained_V[rows_N]
        if self.training and self.config.id_dropout:
            has_row_N = has_row_N & (torch.rand(rows_N.shape, device=rows_N.device) >= self.config.id_dropout)
        return self.id_table(rows_N.where(has_row_N, c.UNKNOWN_INDEX))

    def text_half(self, token_ids_NT: torch.Tensor, token_counts_N: torch.Tensor) -> torch.Tensor:
        """The semantic embedding of N texts; zero where a text has no token.

        Raises:
            ModelError: The model reads hidden states instead of token ids: use ``catalog_texts``.
        """
        if self.config.reads_states:
            raise ModelError(
                f"model.fusion.token_init {self.config.token_init} reads hidden states of whole texts; token ids do "
                "not have them"
            )
        rows_NT = token_rows(self.known_token_ids_W, token_ids_NT)
        return self._texts_of_tokens(rows_NT[_mask(token_counts_N, rows_NT.shape[1])], token_counts_N.long())

    def catalog_texts(self, catalog: ItemCatalog, texts_X: torch.Tensor) -> torch.Tensor:
        """The semantic embedding of some distinct texts of a catalog (rows of ``catalog.text_items_X``).

        ``texts_X`` is on the device of the model.

        Raises:
            ModelError: The model reads hidden states and the catalog has none, or of another width.
        """
        counts_X = catalog.text_counts(texts_X)
        if not self.config.reads_states:
            rows_XT = catalog.text_token_rows_XT(self.known_token_ids_W)[texts_X]
            return self._texts_of_tokens(rows_XT[_mask(counts_X, rows_XT.shape[1])], counts_X)
        states_SH = catalog.text_states_SH(texts_X)
        if states_SH.shape[1] != self.state_width:
            raise ModelError(
                f"hidden states of the catalog are {states_SH.shape[1]} wide, the model reads {self.state_width}"
            )
        if self.config.has_text_layers:
            return self.layers(states_SH, catalog.state_counts(counts_X))
        rows_S = torch.arange(len(states_SH), device=states_SH.device)
        if self.config.token_init == "sentence":
            sentences_XH = F.normalize(_mean_of_texts(states_SH, rows_S, counts_X), dim=-1)
            return self.projection(sentences_XH) * (counts_X > 0)[:, None]
        return self.text(self.projection(states_SH), rows_S, counts_X)

    def _texts_of_tokens(self, rows_S: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
        table = self.token_table
        if len(rows_S) >= table.num_embeddings and not table.sparse:
            return self.text(table.weight, rows_S, counts_X)
        distinct_W, rows_S = torch.unique(rows_S, return_inverse=True)
        return self.text(table(distinct_W), rows_S, counts_X)

    @property
    def has_token_table(self) -> bool:
        """False = by id alone, or the text half reads hidden states."""
        return self.has_text and not self.config.reads_states

    def token_parameters(self) -> list[nn.Parameter]:
        """The parameters of the text side: the token table, or what hidden states go through."""
        if not self.has_text:
            return []
        if self.config.has_text_layers:
            return list(self.layers.parameters())
        return list((self.projection if self.config.reads_states else self.token_table).parameters())

    def balance_loss(self) -> torch.Tensor | None:
        """Load-balancing loss of the last forward pass, unweighted; None unless the mode is `moe`."""
        return self.text.balance_loss if self.has_text and isinstance(self.text, MixtureOfExperts) else None

    def expert_load(self) -> list[float]:
        """Share of the last batch's texts that activated each expert, summing to top_k; empty unless `moe`."""
        if not self.has_text or not isinstance(self.text, MixtureOfExperts):
            return []
        return [round(share, 4) for share in self.text.load_K.tolist()]


class MaskedMean(nn.Module):
    """Mean over the real tokens; zero where there are none."""

    def forward(self, vectors_WD: torch.Tensor, rows_S: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
        return _mean_of_texts(vectors_WD, rows_S, counts_X)


class MixtureOfExperts(nn.Module):
    """Σ_j gate(x)_j · Attn_j(x) with gate(x) = softmax(topk(mean(x) · W_gate)) (eq. 3, 4).

    Attn_j is a learned query over the tokens, a masked softmax, and a value projection. What is linear is done where it
    costs least, with the same result: gate and queries meet every distinct token once, the value projection comes
    after the sum over tokens, and only the chosen experts add tokens up.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        D, K = config.token_width, config.num_experts
        self.top_k = config.top_k
        self.gate = nn.Linear(D, K, bias=False)
        self.queries_KD = nn.Parameter(torch.randn(K, D) / math.sqrt(D))
        # Near the identity: the language model's geometry survives the first step.
        self.values_KDD = nn.Parameter(torch.eye(D).repeat(K, 1, 1) + torch.randn(K, D, D) * 0.1 / math.sqrt(D))
        self.load_K = torch.zeros(K)
        self.balance_loss: torch.Tensor | None = None

    def forward(self, vectors_WD: torch.Tensor, rows_S: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
        """Semantic embeddings of X texts, zero where a text has no token.

        Args:
            vectors_WD: Vectors of tokens.
            rows_S: Rows of them that the texts consist of, text after text; ``counts_X`` of each text.
        """
        weights_XK = self._gate(_mean_of_texts(self.gate(vectors_WD), rows_S, counts_X), counts_X > 0)
        attention_SK = _softmax_of_texts((vectors_WD @ self.queries_KD.T)[rows_S], counts_X)
        chosen_KX = weights_XK.T > 0
        experts_Y, texts_Y = chosen_KX.nonzero(as_tuple=True)  # pairs of an expert and a text, expert after expert
        used_KS = chosen_KX.repeat_interleave(counts_X, dim=1)
        pooled_YD = F.embedding_bag(
            rows_S.expand(len(used_KS), -1)[used_KS],
            vectors_WD,
            _starts(counts_X[texts_Y]),
            mode="sum",
            per_sample_weights=attention_SK.T[used_KS].to(vectors_WD.dtype),
        )
        mixed_YD = pooled_YD * weights_XK[texts_Y, experts_Y][:, None]
        of_expert = mixed_YD.split(chosen_KX.sum(dim=1).tolist())
        valued_YD = torch.cat([mixed @ value for mixed, value in zip(of_expert, self.values_KDD, strict=True)])
        return valued_YD.new_zeros(len(counts_X), valued_YD.shape[1]).index_add(0, texts_Y, valued_YD)

    def _gate(self, logits_NK: torch.Tensor, has_text_N: torch.Tensor) -> torch.Tensor:
        top = logits_NK.topk(self.top_k, dim=-1)
        # Autocast of a GPU makes a softmax float32, that of a CPU leaves it as it is.
        chosen_Nk = top.values.softmax(dim=-1).to(logits_NK.dtype)
        weights_NK = torch.zeros_like(logits_NK).scatter(-1, top.indices, chosen_Nk)
        if self.training:
            self._measure_load(logits_NK, weights_NK, has_text_N)
        return weights_NK

    def _measure_load(self, logits_NK: torch.Tensor, weights_NK: torch.Tensor, has_text_N: torch.Tensor) -> None:
        """Switch Transformer's balance loss: K · Σ_j share_j · mean probability_j; 1 x top_k when balanced."""
        texts = has_text_N.sum().clamp(min=1)
        share_K = ((weights_NK > 0) & has_text_N[:, None]).sum(dim=0) / texts
        probability_K = (logits_NK.softmax(dim=-1) * has_text_N[:, None]).sum(dim=0) / texts
        self.load_K = share_K.detach()
        self.balance_loss = len(share_K) * (share_K.detach() * probability_K).sum()


def _mask(counts_N: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.arange(longest, device=counts_N.device) < counts_N[:, None]


def _starts(counts_X: torch.Tensor) -> torch.Tensor:
    return counts_X.cumsum(0) - counts_X


def _mean_of_texts(vectors_WD: torch.Tensor, rows_S: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens of each text; zero where there are none."""
    return F.embedding_bag(rows_S, vectors_WD, _starts(counts_X), mode="mean")


def _softmax_of_texts(scores_SK: torch.Tensor, counts_X: torch.Tensor) -> torch.Tensor:
    """Softmax over the tokens of each text."""
    mask_XT = _mask(counts_X, max(1, int(counts_X.max()) if len(counts_X) else 1))
    scores_XTK = scores_SK.new_full((*mask_XT.shape, scores_SK.shape[1]), torch.finfo(scores_SK.dtype).min)
    return scores_XTK.index_put((mask_XT,), scores_SK).softmax(dim=1)[mask_XT]
