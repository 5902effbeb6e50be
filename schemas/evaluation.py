"""Figures of the offline evaluation and of simulated days."""

from schemas import columns as c
from schemas.table import AS_OF, MODEL_TASK, Column, Table

EVALUATION_METRICS = Table(
    name="evaluation_metrics",
    doc="One figure of the offline evaluation, with its confidence interval.",
    key=("question", c.TASK, "system", "user_filter", "item_group", "metric", "k", c.AS_OF),
    written_by="evaluate",
    columns=(
        Column(
            "question",
            "string",
            "`retrieval` (whole catalog), `recall` (candidates), `recommendations` (the published lists) or `ranking` "
            "(impressions).",
        ),
        MODEL_TASK,
        Column("system", "string", "The model or reference that made the ranking."),
        Column(c.MODEL_VERSION, "string", "Its checkpoint; null for a reference.", nullable=True),
        Column(
            "user_filter",
            "string",
            "`all` = nothing filtered, `new` = items the user had are filtered, `repeat` = nothing but these.",
        ),
        Column(
            "item_group",
            "string",
            "Truth items that count: all, hot, cold, seen, rare (1-4 events), unseen, scene:<name> (task all).",
        ),
        Column(
            "metric",
            "string",
            "recall, ndcg, hit_rate, unique_hit_rate, overlap, coverage, novelty (bits), auc, gauc, log_loss, "
            "calibration_error, or a paired improvement: auc_gain, gauc_gain and log_loss_gain over the plain ranking "
            "model, ndcg_gain of the published lists over the best simple reference.",
        ),
        Column("k", "int", "Cut of the ranking; 0 where the metric has none."),
        Column("value", "double", "Mean over users."),
        Column("ci_low", "double", "Lower end of the 95 % bootstrap interval over users.", nullable=True),
        Column("ci_high", "double", "Upper end of it.", nullable=True),
        Column("users", "bigint", "Users with at least one truth item in the group."),
        Column("reference", "string", "What a paired improvement is over; null for any other figure.", nullable=True),
        Column("p_value", "double", "Of a paired improvement, two-sided; null for any other figure.", nullable=True),
        AS_OF,
    ),
)

TRAINING_DAYS = Table(
    name="training_days",
    doc="How much of what users were shown on one simulated day the model of a task was trained on (Fig. 4a).",
    key=(c.AS_OF, c.TASK),
    written_by="run_days",
    columns=(
        Column(c.AS_OF, "timestamp", "The night; the figures are of the day that begins with it, UTC."),
        MODEL_TASK,
        Column("warm_up_every_days", "int", "The policy: 0 = only the first night."),
        Column(c.MODEL_VERSION, "string", "The checkpoint in use on that day."),
        Column(
            "universal_version",
            "string",
            "The universal checkpoint of its last warm-up; null without one.",
            nullable=True,
        ),
        Column(
            "warm_up_as_of",
            "timestamp",
            "The night of its last warm-up, UTC; for `all` the night it was trained.",
            nullable=True,
        ),
        Column("exposed_by", "string", "`impressions`, or `events` of the task where the day has no impression."),
        Column("exposed_items", "bigint", "Distinct items exposed on the day."),
        Column("untrained_items", "bigint", "Of these, items that Universal Training has not trained."),
        Column("exposures", "bigint", "Exposures of the day."),
        Column("untrained_exposures", "bigint", "Of these, exposures of such items."),
        Column(
            "untrained_item_rate",
            "double",
            "untrained_items / exposed_items, the axis of Fig. 4a; null without exposures.",
            nullable=True,
        ),
        Column(
            "untrained_exposure_rate",
            "double",
            "untrained_exposures / exposures; null without exposures.",
            nullable=True,
        ),
    ),
)
