"""Configuration of the PRECISE model."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config

TokenInitMode = Literal["vocab", "input", "contextual", "sentence", "top_layers", "random"]

# By name: importing an encoder would load torch, which a Spark job has no use for.
KINDS_WITHOUT_FFN = frozenset({"hstu"})
KINDS_THAT_READ_TIMES = frozenset({"hstu"})


class FusionConfig(Config):
    """Embedding Fusion (IV-B, eq. 3 and 4; Table VI).

    ``mode``: `id` (PRECISE-ID), `llm` (PRECISE-LLM), `pool` (PRECISE-Pool), `moe` (PRECISE). ``token_init``: `vocab`
    (token table from language-model states averaged per token), `input` (token table from the model's input
    embeddings), `contextual` (no table: every text keeps its own frozen states, a projection is trained), `sentence`
    (no table: the mean of a text's frozen states at length 1, LEARN's input; a projection is trained), `top_layers` (no
    table: the last ``trained_layers`` layers of the language model are trained, over frozen states of the layers below,
    and a text is the mean of what comes out: HLLM's item model; 0 = nothing of it is trained), `random`.
    ``id_dropout`` is the probability that an item's id row is replaced by the shared unknown row during training; 0 =
    the paper. ``min_id_events``: an item with fewer training events has the unknown row as its id half, in training
    too, where its row would be learnt from a handful of events. 1 = the paper.
    """

    mode: Literal["id", "llm", "pool", "moe"] = Field(
        "moe", description="`moe` = PRECISE, `pool` = mean of the tokens, `llm` = text only, `id` = id only."
    )
    id_width: int = Field(128, ge=1, description="Width of the id half.")
    token_width: int = Field(128, ge=1, description="Width of the text half.")
    num_experts: int = Field(4, ge=1, description="K in eq. 3 and 4.")
    top_k: int = Field(2, ge=1, description="k: experts that are active per item.")
    balance_weight: float = Field(0.01, ge=0, description="Weight of the load-balancing loss; 0 = the paper.")
    token_init: TokenInitMode = Field(
        "vocab", description="What the text half starts from; [the ways and their costs](jobs/text.md#embed_tokens)."
    )
    trained_layers: int = Field(
        2, ge=0, description="Of `token_init: top_layers`: last layers of the language model that are trained."
    )
    id_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of id rows replaced by the unknown row while training; 0 = the paper."
    )
    min_id_events: int = Field(1, ge=1, description="Training events from which on an item has an id row of its own.")

    @model_validator(mode="after")
    def _top_k_fits(self) -> FusionConfig:
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is above num_experts {self.num_experts}")
        return self

    @model_validator(mode="after")
    def _experts_have_tokens(self) -> FusionConfig:
        if self.token_init in ("sentence", "top_layers") and self.mode == "moe":
            raise ValueError(
                f"token_init {self.token_init}: a text is one vector, and the experts of mode moe need its tokens"
            )
        return self

    @property
    def is_contextual(self) -> bool:
        """True = the model projects the hidden states of every token of a text."""
        return self.mode != "id" and self.token_init == "contextual"

    @property
    def reads_states(self) -> bool:
        """True = the model reads hidden states of whole texts and has no token table."""
        return self.mode != "id" and self.token_init in ("contextual", "sentence", "top_layers")

    @property
    def has_text_layers(self) -> bool:
        """True = the text half is the last layers of a language model, as wide as it is."""
        return self.mode != "id" and self.token_init == "top_layers"

    @property
    def width(self) -> int:
        """Width of e_i: the id half, the token half, or both side by side."""
        return {"id": self.id_width, "llm": self.token_width}.get(self.mode, self.id_width + self.token_width)


class EncoderConfig(Config):
    """The model over a sequence of items (IV-C, IV-D). ``kind``: `transformer` (PRECISE), `sasrec`, `bert4rec`, ...

    ``divide_by``: an HSTU layer adds up what a position looks at and divides by `max_length` (the paper), which leaves
    little of a short history at the start of training, or by the number of `visible` positions.
    """

    kind: str = Field("transformer", description="A file of `precise_core/models/encoders/`.")
    layers: int = Field(2, ge=1, description="H: Transformer blocks; the paper uses 6.")
    heads: int = Field(4, ge=1, description="Attention heads.")
    ffn_width: int | None = Field(
        512, ge=1, description="Hidden width of the feed-forward network; null for `hstu`, which has none."
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="On the input and on what attention and feed-forward network add."
    )
    max_length: int = Field(100, ge=1, description="Longest sequence the model can read.")
    scale_input: bool = Field(True, description="Item vectors times sqrt(width) before positions are added.")
    time_bias: bool = Field(True, description="`hstu` reads when events happened; false = their order alone.")
    divide_by: Literal["max_length", "visible"] = Field(
        "max_length", description="What `hstu` divides a position's sum by; `max_length` = the paper."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_instead_of_the_default(cls, values: Any) -> Any:
        is_without = isinstance(values, dict) and values.get("kind") in KINDS_WITHOUT_FFN
        return {"ffn_width": None} | values if is_without else values

    @model_validator(mode="after")
    def _ffn_where_there_is_one(self) -> EncoderConfig:
        if self.kind in KINDS_WITHOUT_FFN and self.ffn_width is not None:
            raise ValueError(f"ffn_width {self.ffn_width}: {self.kind} has no feed-forward network; set it to null")
        if self.kind not in KINDS_WITHOUT_FFN and self.ffn_width is None:
            raise ValueError(f"ffn_width null: {self.kind} has a feed-forward network; a width is needed")
        return self

    @property
    def uses_times(self) -> bool:
        """Whether user vectors depend on when events happened, and on when the user is asked."""
        return self.kind in KINDS_THAT_READ_TIMES and self.time_bias

    @field_validator("kind")
    @classmethod
    def _is_registered(cls, value: str) -> str:
        folder = str(Path(__file__).parent / "encoders")
        kinds = sorted({module.name for module in pkgutil.iter_modules([folder])} - {"base", "registry"})
        if value not in kinds:
            raise ValueError(f"no encoder {value!r}; there are {kinds}")
        return value


class ModelConfig(Config):
    """PRECISE. ``residual_head``: h'_u = last state + MLP(CONCAT(...)), last layer zero; False = the paper.

    ``prediction``: `next_item` (causal, the paper's Universal Training) or `masked_item` (BERT4Rec's cloze task: every
    position sees every other, some are masked, and the user vector is the state of a mask behind the newest item).
    ``late_fusion``: an encoder for either half of an item vector, each with a loss of its own; the score is the sum of
    both. False = the paper: one encoder reads both halves side by side (eq. 4). ``item_tower``: what an item is
    compared by: its fused vector (the paper), or what the `encoder` makes of a history of it alone (LEARN).
    """

    fusion: FusionConfig = Field(FusionConfig(), description="Item id and item text to one vector.")
    encoder: EncoderConfig = Field(EncoderConfig(), description="The Transformer over items.")
    prediction: Literal["next_item", "masked_item"] = Field(
        "next_item", description="What Universal Training predicts."
    )
    similarity: Literal["cosine", "dot"] = Field(
        "cosine", description="How user and item are compared; `dot` = the paper's training, `cosine` = its serving."
    )
    temperature: float = Field(
        0.07, gt=0, description="Cosine is divided by it before the softmax; the start value where it is learned."
    )
    learned_temperature: bool = Field(True, description="Train the temperature too.")
    late_fusion: bool = Field(
        False, description="An encoder and a loss for either half of an item vector; false = the paper."
    )
    item_tower: Literal["none", "encoder"] = Field(
        "none", description="What stands between an item's fused vector and the score; `none` = the paper."
    )
    residual_head: bool = Field(
        True, description="The targeted user vector is last state + MLP; false = the MLP alone, the paper."
    )
    head_width: int = Field(128, ge=1, description="Hidden width of the targeted stage's MLP.")

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        for width in self.part_widths:
            if width % self.encoder.heads:
                raise ValueError(f"encoder.heads {self.encoder.heads} does not divide the item width {width}")
        return self

    @model_validator(mode="after")
    def _late_fusion_has_halves(self) -> ModelConfig:
        if self.late_fusion and self.fusion.mode not in ("pool", "moe"):
            raise ValueError(f"late_fusion needs an id half and a text half; fusion.mode {self.fusion.mode} has one")
        if self.late_fusion and self.prediction == "masked_item":
            raise ValueError("late_fusion goes with prediction next_item only")
        return self

    @property
    def part_widths(self) -> tuple[int, ...]:
        """Widths of the parts of an item vector that are encoded apart: one, or under late fusion two."""
        return (self.fusion.id_width, self.fusion.token_width) if self.late_fusion else (self.fusion.width,)
