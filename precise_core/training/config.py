"""Configuration of Universal and Targeted Training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from precise_core.config import Config
from precise_core.objectives.config import NegativesConfig

TargetFilter = Literal["all", "new"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


class OptimizerConfig(Config):
    """AdamW with linear warm-up and cosine decay to ``final_share`` of the rate.

    ``sparse_above_rows``: embedding tables with more rows take part with the rows of a batch only (torch's SparseAdam,
    without weight decay). A sparse step costs by the rows of a batch, a dense one by the rows of the table:
    `python -m benchmarks.sparse_tables` shows from which size on the sparse one is the faster one on a machine.
    """

    learning_rate: float = Field(1e-3, gt=0, description="Highest learning rate.")
    text_layers_share: float = Field(
        0.1, gt=0, le=1, description="Of the learning rate, for a language model's layers (`token_init: top_layers`)."
    )
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Of AdamW.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Of AdamW.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up, at most half of all.")
    final_share: float = Field(0.1, ge=0, le=1, description="Of the learning rate, at the last step.")
    clip_norm: float = Field(1.0, gt=0, description="Longest gradient.")
    sparse_above_rows: int = Field(200_000, ge=0, description="Embedding tables with more rows have sparse gradients.")


class LoopConfig(Config):
    """What every training has: how long, how large, how often it looks at the validation slice.

    ``accumulate_batches``: batches whose gradients make one update (in-batch negatives stay those of one batch).
    ``device``: `auto` = the GPU that torch finds, else the CPU; on several ranks the CPU. ``precision``: `fp32`, `bf16`
    (autocast), or `auto`: bf16 on a GPU that has it, and fp32 on a CPU, where bf16 was the slower one
    (`python -m benchmarks.paper_speed`). ``horizon_days``: 0 = the paper, targets are of the next instant;
    above, of all instants up to that many days after the newest event seen, for vectors that are written once and used
    for days. ``target_filter``: `all` = the paper; `new` = only items that the window did not hold before are targets,
    and validation ranks only those, for lists that leave out what a user had; the window is read whole in either case.
    """

    epochs: int = Field(3, ge=0, description="Passes over the train windows, at most; 0 keeps the start weights.")
    batch_size: int = Field(128, ge=2, description="Windows per step, all ranks together.")
    accumulate_batches: int = Field(1, ge=1, description="Batches per optimizer step.")
    device: Device = Field("auto", description="Where training computes; `auto` = the GPU where there is one.")
    precision: Precision = Field("auto", description="`bf16` = autocast; `auto` = fp32 on a CPU, bf16 on a GPU.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="Of this training.")
    horizon_days: float = Field(0.0, ge=0, description="How far ahead targets may lie; 0 = the next instant only.")
    target_filter: TargetFilter = Field("all", description="`new` = only items new to the user are targets.")
    patience: int = Field(2, ge=1, description="Epochs without a better validation NDCG before it stops.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="The epoch in which so many minutes are used up is the last; a night that is cut short may differ "
        "from the same on another machine. None = no limit.",
    )
    checkpoint_every_steps: int = Field(
        200, ge=1, description="Steps after which the state is saved, to go on from after a kill."
    )
    tensorboard: bool = Field(True, description="Write figures to `checkpoints/logs/` while training runs.")

    @property
    def horizon_seconds(self) -> int:
        """The horizon in the unit of event times."""
        return round(self.horizon_days * 86_400)


class AlternateConfig(Config):
    """Alternate training (IV-E2): the token table stays frozen until the id table has converged.

    Of a training from scratch; one that goes on trains everything from its first step.

    Converged = validation has not improved for ``patience`` epochs, or an epoch moved the id table by less than
    ``min_update`` of its norm, or ``max_epochs`` are used up.
    """

    enabled: bool = Field(False, description="Train the id table first.")
    patience: int = Field(1, ge=1, description="Epochs without a better validation NDCG that end the first phase.")
    min_update: float = Field(0.0, ge=0, description="Relative change of the id table in an epoch that ends it too.")
    max_epochs: int = Field(10, ge=1, description="Longest first phase.")


class UniversalConfig(LoopConfig):
    """Universal Training (IV-C, eq. 5).

    ``start``: `scratch` = a new model from all train windows; `continue` = the checkpoint in use, grown to tonight's
    items, on the windows with events since it was trained. Without a checkpoint to go on from, scratch.

    ``logit_adjustment``: 0 = the paper. Above, the loss adds that many times log(1 + an item's events in the windows
    that are learnt) to its score, so that the score need not learn how popular an item is (Menon et al. 2021,
    https://arxiv.org/abs/2007.07314): rare items rank higher. Under `model.late_fusion` of the text half alone:
    popularity then counts once in the sum. It needs negatives that do not leave popularity out already.
    """

    start: Literal["scratch", "continue"] = Field(
        "scratch", description="`continue` = go on from the checkpoint in use with the new windows only."
    )
    negatives: NegativesConfig = Field(NegativesConfig(), description="N_u of eq. 5.")
    ranks: int = Field(1, ge=1, description="Processes of TorchDistributor; 1 = in this process.")
    rank_timeout_seconds: int = Field(180, ge=1, description="Longest silence of a rank, writing a state included.")
    targets_per_position: int = Field(4, ge=1, description="Items of the future drawn per position.")
    mask_share: float = Field(0.2, gt=0, lt=1, description="Share of masked items; `prediction: masked_item` only.")
    logit_adjustment: float = Field(0.0, ge=0, description="How much of an item's popularity the score leaves out.")
    alternate: AlternateConfig = Field(AlternateConfig(), description="The id table first, then everything (IV-E2).")

    @model_validator(mode="after")
    def _ranks_compute_on_cpus(self) -> UniversalConfig:
        if self.ranks > 1 and self.device == "cuda":
            raise ValueError(f"device cuda: {self.ranks} ranks compute on CPUs; set ranks 1, or device auto or cpu")
        return self

    @model_validator(mode="after")
    def _popularity_is_left_out_once(self) -> UniversalConfig:
        negatives = self.negatives
        by_popularity = negatives.in_batch and not (negatives.logq_correction or negatives.whole_catalog)
        if self.logit_adjustment and by_popularity:
            raise ValueError(
                f"logit_adjustment {self.logit_adjustment:g}: in-batch negatives without logq_correction leave "
                "popularity out already; set negatives.logq_correction true or logit_adjustment 0"
            )
        return self


class TargetedConfig(LoopConfig):
    """Targeted Training (IV-D, eq. 6). ``loss``: `bpr_user` = the paper, `bpr_item`, `both`, `softmax`.

    ``warm_up_every_days`` (IV-E1): on a warm-up night everything but the head is reloaded from the universal checkpoint
    and all windows are learnt; on other nights the task's own checkpoint goes on with the new ones.
    """

    loss: Literal["bpr_user", "bpr_item", "both", "softmax"] = Field(
        "both", description="`bpr_user` = the paper (eq. 6), `bpr_item` = negatives are items, `both`, or `softmax`."
    )
    negatives: NegativesConfig = Field(NegativesConfig(), description="For `bpr_item`, `both` and `softmax`.")
    cuts_per_window: int = Field(4, ge=1, description="(history, next item) examples drawn per window and epoch.")
    warm_start: bool = Field(True, description="False = PRECISE-TT of Table VII.")
    warm_up_every_days: int = Field(
        1, ge=0, description="Days between two warm-ups; 1 = every night, 0 = the first night only."
    )


class AlignmentConfig(Config):
    """One vector space across retrains: a model trained anew is turned into the space of the one before.

    The map is orthogonal: it changes no score and no list, only the coordinates that a model behind the vectors reads.
    It is fitted at the end of a training to the first checkpoint of the space, on half of the items that both have
    learnt well, and judged on the other half. Beyond a limit the new model opens a space of its own.

    ``least_items``: also twice the width of a vector is needed, or the map would be free in some directions.
    ``continued``: a training that goes on stays in its space, with the map of the checkpoint that it continues, if that
    has one; true = it is fitted and judged anew as well.
    """

    enabled: bool = Field(True, description="Fit a map to the space in use after a training from scratch.")
    continued: bool = Field(False, description="Also after a training that goes on.")
    least_events: int = Field(5, ge=1, description="Training events, in both models, of an item that is fitted on.")
    least_items: int = Field(100, ge=4, description="Such items, at least; half of them are held out.")
    most_items: int = Field(100_000, ge=4, description="Such items, at most: those with most events.")
    smallest_cosine: float = Field(
        0.5, ge=-1, le=1, description="Mean cosine of a held-out item's vector to the anchor's, with the map."
    )
    largest_residual: float = Field(
        1.0, gt=0, description="What the map leaves over, relative to the length of the anchor's vectors."
    )
    smallest_neighbour_overlap: float = Field(
        0.1, ge=0, le=1, description="Share of a held-out item's 20 nearest that are the same."
    )


DEFAULT_ALIGNMENT = AlignmentConfig()
