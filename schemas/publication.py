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
