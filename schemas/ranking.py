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
        Column(c.IMPRESSION_ID, "string", "Identity of the impression."),
        Column(c.USER_ID, "string", "To whom it was shown."),
        Column(c.ITEM_ID, "string", "What was shown."),
        Column(c.IMPRESSION_TS, "timestamp", "When, UTC."),
        EVENT_TASK,
        Column(c.SPLIT, "string", "train, validation or test, by time within a vector space."),
        Column(c.LABEL, "int", "1 = taken, 0 = passed over."),
        Column(c.SPARSE_FEATURES, "map<string,string>", "Categorical features by name, as text."),
        Column(c.DENSE_FEATURES, "map<string,double>", "Numeric features by name, from before the instant."),
        Column(c.USER_EMBEDDING, "array<float>", "PRECISE user vector; null = the user had none then.", nullable=True),
        Column(c.ITEM_EMBEDDING, "array<float>", "PRECISE item vector; null = the item had none then.", nullable=True),
        Column(c.PRECISE_SCORE, "float", "Dot product of the two; null where either is.", nullable=True),
        Column(
            c.MODEL_VERSION,
            "string",
            "Checkpoint of both vectors: the one whose vectors were the newest at the instant.",
        ),
        Column(
            c.VECTOR_SPACE,
            "string",
            "Rows of one space may be trained on together: their checkpoints went on from each other or were aligned.",
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
        Column(c.IMPRESSION_ID, "string", "Identity of the impression."),
        Column(c.RANKER_VERSION, "string", "Checkpoint of the ranking model."),
        Column(c.SCORE, "float", "Probability that the item is taken."),
    ),
)
