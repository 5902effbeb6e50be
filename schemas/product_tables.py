"""Tables that other teams read: embeddings, scores, candidates, evaluation; and the bookkeeping of runs."""

from schemas import columns as c
from schemas.table import Column, Table

_MODEL_VERSION = Column(name=c.MODEL_VERSION, type="string", doc="Checkpoint the numbers come from; never mix two.")
_AS_OF = Column(name=c.AS_OF, type="timestamp", doc="The instant the row knows the world up to (exclusive), UTC.")
_TASK = Column(name=c.TASK, type="string", doc="`all` (Universal Training) or the targeted task.")

ITEM_EMBEDDINGS = Table(
    name="item_embeddings",
    doc="The fused vector of one item (e_i, eq. 4), scaled so that a dot product with a user vector is its score.",
    key=(c.ITEM_ID, c.MODEL_VERSION),
    written_by="embed_items",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(name=c.ITEM_ID, type="string", doc="External key of the item."),
        Column(name=c.ITEM_INDEX, type="int", doc="Its row in the vocabulary."),
        _MODEL_VERSION,
        Column(name=c.EMBEDDING, type="array<float>", doc="The vector; finite and never all zero."),
        Column(name=c.EMBEDDED_AT, type="timestamp", volatile=True, doc="When it was computed, UTC."),
        Column(name=c.IS_COLD, type="boolean", doc="True = no training event; the vector comes from text alone."),
        Column(name=c.TEXT_HASH, type="string", doc="SHA-256 of the text it was made from, as in `item_tokens`."),
    ),
)

USER_EMBEDDINGS = Table(
    name="user_embeddings",
    doc="The vector of one user for one task (h_u, sections IV-C and IV-D).",
    key=(c.USER_ID, c.TASK, c.MODEL_VERSION),
    written_by="embed_users",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(name=c.USER_ID, type="string", doc="External key of the user."),
        _TASK,
        _MODEL_VERSION,
        Column(name=c.EMBEDDING, type="array<float>", doc="The vector; finite and never all zero."),
        _AS_OF,
        Column(name=c.SEQUENCE_HASH, type="bigint", doc="Hash of the items it was made from; another one = stale."),
    ),
)

PUBLISHED_MODELS = Table(
    name="published_models",
    doc="The checkpoint whose vectors are complete and read by everything behind them, one row per task.",
    key=(c.TASK,),
    written_by="publish_models",
    columns=(
        _TASK,
        Column(name=c.MODEL_VERSION, type="string", doc="Whose vectors to read."),
        Column(
            name="previous_version",
            type="string",
            nullable=True,
            doc="What was published for the task before; null = nothing.",
        ),
        Column(name=c.AS_OF, type="timestamp", doc="Users were encoded with every event before this instant, UTC."),
        Column(
            name="table_versions",
            type="map<string,bigint>",
            doc="Delta version of each table the publication was checked against: the vectors are to be read in it, "
            "later ones were not published.",
        ),
        Column(name=c.INDEX_VERSION, type="string", doc="Folder of the index of these item vectors, under `indexes/`."),
        Column(name=c.TOKENIZER_ID, type="string", doc="Tokenizer of the item texts, name and content hash."),
        Column(
            name=c.LANGUAGE_MODEL,
            type="string",
            nullable=True,
            doc="Language model behind the checkpoint, name and content hash; null = none.",
        ),
        Column(name=c.RUN_ID, type="string", volatile=True, doc="The run that published it."),
        Column(name="published_at", type="timestamp", volatile=True, doc="When, UTC."),
        Column(
            name=c.VALID_FROM,
            type="timestamp",
            volatile=True,
            doc="From when on readers had these vectors: the later of `as_of` and `published_at`; `as_of` in a night "
            "of the past (more than seven days).",
        ),
    ),
)

PAIR_SCORES = Table(
    name="pair_scores",
    doc="Similarity of a user and an item vector for one candidate pair.",
    key=(c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
    written_by="score_pairs",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(name=c.USER_ID, type="string", doc="External key of the user."),
        Column(name=c.ITEM_ID, type="string", doc="External key of the item."),
        _MODEL_VERSION,
        Column(
            name=c.SCORE,
            type="float",
            doc="Dot product, or cosine where `scoring.similarity` says so; higher is better.",
        ),
        _AS_OF,
    ),
)

_SOURCES = (
    "`u2i` (user vector), `u2i2i` (neighbours of recent items), or `popular`: the user has no history of the task and "
    "gets its most popular items."
)
RECALL_CANDIDATES = Table(
    name="recall_candidates",
    doc="One recalled item for one user (section VI-B, Fig. 6).",
    key=(c.USER_ID, c.TASK, c.MODEL_VERSION, c.SOURCE, c.RANK),
    written_by="recall",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(name=c.USER_ID, type="string", doc="External key of the user."),
        _TASK,
        _MODEL_VERSION,
        Column(name=c.SOURCE, type="string", doc=_SOURCES),
        Column(name=c.RANK, type="int", doc="1 = best, within user and source."),
        Column(
            name=c.MERGED_RANK,
            type="int",
            nullable=True,
            doc="Place in the user's one list over all sources (`recall.quotas`), 1 = first; null = not in it.",
        ),
        Column(name=c.ITEM_ID, type="string", doc="The recalled item."),
        Column(name=c.SCORE, type="float", doc="What it was ranked by: similarity; recent events (`popular`)."),
        Column(
            name=c.SEED_ITEM_ID, type="string", nullable=True, doc="The recent item it is a neighbour of (`u2i2i`)."
        ),
        _AS_OF,
    ),
)

RANKING_SCORES = Table(
    name="ranking_scores",
    doc="The ranking model's probability for one impression.",
    key=(c.IMPRESSION_ID, c.RANKER_VERSION),
    written_by="score_ranking",
    partition_by=(c.RANKER_VERSION,),
    columns=(
        Column(name=c.IMPRESSION_ID, type="string", doc="Identity of the impression."),
        Column(name=c.RANKER_VERSION, type="string", doc="Checkpoint of the ranking model."),
        Column(name=c.SCORE, type="float", doc="Probability that the item is taken."),
    ),
)

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
        _TASK,
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
        _AS_OF,
    ),
)

TRAINING_DAYS = Table(
    name="training_days",
    doc="How much of what users were shown on one simulated day the model of a task was trained on (Fig. 4a).",
    key=(c.AS_OF, c.TASK),
    written_by="run_days",
    columns=(
        Column(name=c.AS_OF, type="timestamp", doc="The night; the figures are of the day that begins with it, UTC."),
        _TASK,
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

VALIDATION_RESULTS = Table(
    name="validation_results",
    doc="The outcome of one expectation on one table in one run.",
    key=(c.RUN_ID, "table_name", "part", "expectation", "column"),
    written_by="every gated job",
    columns=(
        Column(name=c.RUN_ID, type="string", doc="The run that checked."),
        Column(name="table_name", type="string", doc="The table that was checked before it was written."),
        Column(name="part", type="string", doc="The slice that was checked (a task), empty for the whole table."),
        Column(name="expectation", type="string", doc="Great Expectations name of the rule."),
        Column(name="column", type="string", doc="Column or columns it looks at; empty for the whole table."),
        Column(name="level", type="string", doc="`fail` = the job stops before it writes, `warn` = only noted."),
        Column(name="success", type="boolean", doc="Whether it held."),
        Column(name="element_count", type="bigint", doc="Rows it looked at."),
        Column(name="unexpected_count", type="bigint", doc="Rows that broke it."),
        Column(name="checked_at", type="timestamp", doc="When, UTC."),
    ),
)

RUNS = Table(
    name="runs",
    doc="One run of one job: what it read, what it wrote, how long it took.",
    key=(c.RUN_ID,),
    written_by="every job",
    columns=(
        Column(name=c.RUN_ID, type="string", doc="Identity of the run."),
        Column(name=c.JOB, type="string", doc="Name of the job."),
        Column(name="status", type="string", doc="succeeded or failed."),
        Column(name="started_at", type="timestamp", doc="When it started, UTC."),
        Column(name="seconds", type="double", doc="How long it took."),
        Column(name="config_hash", type="string", doc="SHA-256 of the resolved configuration."),
        Column(name="code_version", type="string", doc="Git commit or package version."),
        Column(name="input_versions", type="map<string,bigint>", doc="Delta version of every table it read."),
        Column(name="output_versions", type="map<string,bigint>", doc="Delta version of every table it left behind."),
        Column(
            name="table_ids",
            type="map<string,string>",
            nullable=True,
            doc="Delta's identity of each of these tables: a table made anew at the same place has another.",
        ),
        Column(name="input_fingerprint", type="string", doc="Hash of what it read beside tables: files, checkpoints."),
        Column(name="rows_in", type="bigint", doc="Rows it took in, in the unit the job states."),
        Column(name="rows_out", type="bigint", doc="Rows it passed on."),
        Column(name="rows_rejected", type="bigint", doc="Rows it refused; rows_in = rows_out + rows_rejected."),
        Column(name="row_unit", type="string", doc="What a row is in the three counts."),
        Column(name="metrics", type="map<string,double>", doc="Figures the job reports."),
        Column(
            name="artefacts",
            type="map<string,string>",
            doc="Checkpoints and indexes it made, by name; empty = none in use now.",
        ),
        Column(
            name="error",
            type="string",
            nullable=True,
            doc="Message of a failed run, without values of the data.",
        ),
        Column(name="configuration", type="string", doc="The resolved configuration as JSON."),
    ),
)
