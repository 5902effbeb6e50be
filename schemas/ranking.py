"""Tables of the ranking model: its features and its scores."""

from schemas import columns as c
from schemas.table import EVENT_TASK, Column, Table

RANKING_FEATURES = Table(
    name="ranking_features",
    doc="One impression with everything the ranking model may know at its instant.",
    key=(c.IMPRESSION_ID, c.MODEL_VERSION),
    written_by="build_ranking_features",
    partition_by=(c.MODEL_VERSION,),
    columns=(
        Column(name=c.IMPRESSION_ID, type="string", doc="Identity of the impression."),
        Column(name=c.USER_ID, type="string", doc="To whom it was shown."),
        Column(name=c.ITEM_ID, type="string", doc="What was shown."),
        Column(name=c.IMPRESSION_TS, type="timestamp", doc="When, UTC."),
        EVENT_TASK,
        Column(name=c.SPLIT, type="string", doc="train, validation or test, by time within a vector space."),
        Column(name=c.LABEL, type="int", doc="1 = taken, 0 = passed over."),
        Column(name=c.SPARSE_FEATURES, type="map<string,string>", doc="Categorical features by name, as text."),
        Column(
            name=c.DENSE_FEATURES, type="map<string,double>", doc="Numeric features by name, from before the instant."
        ),
        Column(
            name=c.USER_EMBEDDING,
            type="array<float>",
            nullable=True,
            doc="PRECISE user vector; null = the user had none then.",
        ),
        Column(
            name=c.ITEM_EMBEDDING,
            type="array<float>",
            nullable=True,
            doc="PRECISE item vector; null = the item had none then.",
        ),
        Column(name=c.PRECISE_SCORE, type="float", nullable=True, doc="Dot product of the two; null where either is."),
        Column(
            name=c.MODEL_VERSION,
            type="string",
            doc="Checkpoint of both vectors: the one whose vectors were the newest at the instant.",
        ),
        Column(
            name=c.VECTOR_SPACE,
            type="string",
            doc="Rows of one space may be trained on together: their checkpoints each went on from the one before.",
        ),
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
