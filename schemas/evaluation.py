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
            name="question",
            type="string",
            doc="`retrieval` (whole catalog), `recall` (candidates) or `ranking` (impressions).",
        ),
        MODEL_TASK,
        Column(name="system", type="string", doc="The model or reference that made the ranking."),
        Column(name=c.MODEL_VERSION, type="string", nullable=True, doc="Its checkpoint; null for a reference."),
        Column(
            name="user_filter",
            type="string",
            doc="`all` = nothing filtered, `new` = items the user had are filtered, `repeat` = nothing but these.",
        ),
        Column(
            name="item_group",
            type="string",
            doc="Truth items that count: all, hot, cold, seen, rare (1-4 events), unseen, scene:<name> (task all).",
        ),
        Column(
            name="metric",
            type="string",
            doc="recall, ndcg, hit_rate, unique_hit_rate, overlap, coverage, novelty (bits), auc, gauc, log_loss, "
            "calibration_error, or the paired improvement over the plain ranking model: auc_gain, gauc_gain, "
            "log_loss_gain.",
        ),
        Column(name="k", type="int", doc="Cut of the ranking; 0 where the metric has none."),
        Column(name="value", type="double", doc="Mean over users."),
        Column(name="ci_low", type="double", nullable=True, doc="Lower end of the 95 % bootstrap interval over users."),
        Column(name="ci_high", type="double", nullable=True, doc="Upper end of it."),
        Column(name="users", type="bigint", doc="Users with at least one truth item in the group."),
        AS_OF,
    ),
)

TRAINING_DAYS = Table(
    name="training_days",
    doc="How much of what users were shown on one simulated day the model of a task was trained on (Fig. 4a).",
    key=(c.AS_OF, c.TASK),
    written_by="run_days",
    columns=(
        Column(name=c.AS_OF, type="timestamp", doc="The night; the figures are of the day that begins with it, UTC."),
        MODEL_TASK,
        Column(name="warm_up_every_days", type="int", doc="The policy: 0 = only the first night."),
        Column(name=c.MODEL_VERSION, type="string", doc="The checkpoint in use on that day."),
        Column(
            name="universal_version",
            type="string",
            nullable=True,
            doc="The universal checkpoint of its last warm-up; null without one.",
        ),
        Column(
            name="warm_up_as_of",
            type="timestamp",
            nullable=True,
            doc="The night of its last warm-up, UTC; for `all` the night it was trained.",
        ),
        Column(
            name="exposed_by",
            type="string",
            doc="`impressions`, or `events` of the task where the day has no impression.",
        ),
        Column(name="exposed_items", type="bigint", doc="Distinct items exposed on the day."),
        Column(name="untrained_items", type="bigint", doc="Of these, items that Universal Training has not trained."),
        Column(name="exposures", type="bigint", doc="Exposures of the day."),
        Column(name="untrained_exposures", type="bigint", doc="Of these, exposures of such items."),
        Column(
            name="untrained_item_rate",
            type="double",
            nullable=True,
            doc="untrained_items / exposed_items, the axis of Fig. 4a; null without exposures.",
        ),
        Column(
            name="untrained_exposure_rate",
            type="double",
            nullable=True,
            doc="untrained_exposures / exposures; null without exposures.",
        ),
    ),
)
