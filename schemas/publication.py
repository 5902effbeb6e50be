"""Which checkpoint other teams read."""

from schemas import columns as c
from schemas.table import MODEL_TASK, Column, Table

PUBLISHED_MODELS = Table(
    name="published_models",
    doc="The checkpoint whose vectors are complete and read by everything behind them, one row per task.",
    key=(c.TASK,),
    written_by="publish_models",
    columns=(
        MODEL_TASK,
        Column(c.MODEL_VERSION, "string", "Whose vectors to read."),
        Column("previous_version", "string", "What was published for the task before; null = nothing.", nullable=True),
        Column(c.AS_OF, "timestamp", "Users were encoded with every event before this instant, UTC."),
        Column(
            "table_versions",
            "map<string,bigint>",
            "Delta version of each table the publication was checked against: the vectors are to be read in it, "
            "later ones were not published.",
        ),
        Column(c.INDEX_VERSION, "string", "Folder of the index of these item vectors, under `indexes/`."),
        Column(c.TOKENIZER_ID, "string", "Tokenizer of the item texts, name and content hash."),
        Column(
            c.LANGUAGE_MODEL,
            "string",
            "Language model behind the checkpoint, name and content hash; null = none.",
            nullable=True,
        ),
        Column(c.RUN_ID, "string", "The run that published it.", volatile=True),
        Column("published_at", "timestamp", "When, UTC.", volatile=True),
        Column(
            c.VALID_FROM,
            "timestamp",
            "From when on readers had these vectors: the later of `as_of` and `published_at`; `as_of` in a night "
            "of the past (more than seven days).",
            volatile=True,
        ),
    ),
)
