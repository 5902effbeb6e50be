"""Tables that the trainer reads: vocabulary, tokens, sequences, windows, ranking features."""

from schemas import columns as c
from schemas.table import Column, Table

_TASK = Column(name=c.TASK, type="string", doc="`all` for every event, otherwise a task of the configuration.")

ITEM_VOCABULARY = Table(
    name="item_vocabulary",
    doc="External item id to dense model row; append-only, an index is never reused.",
    key=(c.ITEM_ID,),
    written_by="tokenize_items",
    columns=(
        Column(name=c.ITEM_ID, type="string", doc="External key of the item."),
        Column(name=c.ITEM_INDEX, type="int", doc="Row of the id table: 0 padding, 1 unknown, items from 2."),
        Column(name=c.FIRST_SEEN, type="timestamp", doc="`as_of` of the night that added the item, UTC."),
    ),
)

ITEM_TOKENS = Table(
    name="item_tokens",
    doc="The tokenized text of one item (T_i in section III of the paper).",
    key=(c.ITEM_ID,),
    written_by="tokenize_items",
    columns=(
        Column(name=c.ITEM_ID, type="string", doc="External key of the item."),
        Column(name=c.ITEM_INDEX, type="int", doc="Its row in the vocabulary."),
        Column(name=c.TOKEN_IDS, type="array<int>", doc="Token ids of the language model, right-padded to T."),
        Column(name=c.TOKEN_COUNT, type="int", doc="How many of them are real; 0 = the item has no text."),
        Column(name=c.TEXT_HASH, type="string", doc="SHA-256 of the text that was tokenized."),
        Column(name=c.TOKENIZER_ID, type="string", doc="Name and content hash of the tokenizer."),
    ),
)

TOKEN_EMBEDDINGS = Table(
    name="token_embeddings",
    doc="Initial row of the token table: a token's mean last hidden state in the catalog, or its input embedding.",
    key=(c.TOKEN_ID,),
    written_by="embed_tokens",
    columns=(
        Column(name=c.TOKEN_ID, type="int", doc="Token id of the language model."),
        Column(name=c.VECTOR, type="array<float>", doc="Mean state or input embedding, of the model's own width."),
        Column(name=c.COUNT, type="bigint", doc="Occurrences in distinct item texts."),
        Column(
            name=c.LANGUAGE_MODEL,
            type="string",
            doc="Name and content hash of the language model; ends in `#input` where vectors are input embeddings.",
        ),
    ),
)

# States are kept as the language model gives them. Reduced by a PCA of the catalog they would be a tenth of the size,
# but tomorrow's PCA is another one, and a checkpoint could not read the text of an item that came after it.
TEXT_STATES = Table(
    name="text_states",
    doc="Last hidden states of the tokens of one distinct item text (`model.fusion.token_init: contextual`).",
    key=(c.TEXT_HASH,),
    written_by="embed_tokens",
    columns=(
        Column(name=c.TEXT_HASH, type="string", doc="SHA-256 of the text."),
        Column(name=c.STATES, type="array<float>", doc="A state per token, one after the other: token_count x width."),
        Column(name=c.TOKEN_COUNT, type="int", doc="Tokens of the text, at least 1."),
        Column(name=c.TOKENIZER_ID, type="string", doc="Name and content hash of the tokenizer."),
        Column(name=c.LANGUAGE_MODEL, type="string", doc="Name and content hash of the language model."),
    ),
)

USER_SEQUENCES = Table(
    name="user_sequences",
    # `as_of` is one value for the whole table and stands in its commits: as a column it would change every row nightly.
    doc="The last N events of one user for one task, oldest first (S_u and S'_u of the paper).",
    key=(c.USER_ID, c.TASK),
    written_by="build_sequences",
    partition_by=(c.TASK, c.BUCKET),
    columns=(
        Column(name=c.USER_ID, type="string", doc="Whose sequence it is."),
        _TASK,
        Column(name=c.ITEM_INDICES, type="array<int>", doc="Vocabulary rows, oldest first, at most N."),
        Column(name=c.SCENES, type="array<string>", doc="Scene of each event, parallel to `item_indices`."),
        Column(name=c.EVENT_TS, type="array<timestamp>", doc="Time of each event, parallel, never decreasing, UTC."),
        Column(name=c.LENGTH, type="int", doc="Length of the three arrays, at least 1."),
        Column(name=c.LAST_EVENT_TS, type="timestamp", doc="Time of the newest event, before `as_of`, UTC."),
        Column(name=c.BUCKET, type="int", doc="pmod(xxhash64(user_id), buckets)."),
    ),
)

TRAINING_WINDOWS = Table(
    name="training_windows",
    doc="A slice of one user's sequence, left-padded to a fixed length; what Petastorm reads.",
    key=(c.WINDOW_ID,),
    written_by="build_windows",
    partition_by=(c.TASK, c.SPLIT),
    columns=(
        Column(name=c.WINDOW_ID, type="string", doc="task/split/user_id/number of the slice."),
        _TASK,
        Column(
            name=c.SPLIT,
            type="string",
            doc="`train`; `validation`, or `test` (leave-one-out): a history and its truth.",
        ),
        Column(name=c.ITEM_INDICES, type="array<int>", doc="Vocabulary rows, oldest first, left-padded with 0."),
        Column(name=c.EVENT_TS, type="array<bigint>", doc="Epoch seconds of each event, left-padded with 0."),
        Column(name=c.LENGTH, type="int", doc="Real positions, at the right end of the arrays."),
        Column(
            name=c.TARGET_INDICES, type="array<int>", doc="Truth of a validation or test window, right-padded with 0."
        ),
        Column(name=c.TARGET_COUNT, type="int", doc="Real entries of `target_indices`; 0 in the train split."),
    ),
)

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
        _TASK,
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
