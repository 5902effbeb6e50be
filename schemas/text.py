"""Tables of item text: vocabulary, tokens, and their vectors by the language model."""

from schemas import columns as c
from schemas.table import Column, Table

ITEM_VOCABULARY = Table(
    name="item_vocabulary",
    doc="External item id to dense model row; append-only, an index is never reused.",
    key=(c.ITEM_ID,),
    written_by="tokenize_items",
    columns=(
        Column(c.ITEM_ID, "string", "External key of the item."),
        Column(c.ITEM_INDEX, "int", "Row of the id table: 0 padding, 1 unknown, items from 2."),
        Column(c.FIRST_SEEN, "timestamp", "`as_of` of the night that added the item, UTC."),
    ),
)

ITEM_TOKENS = Table(
    name="item_tokens",
    doc="The tokenized text of one item (T_i in section III of the paper).",
    key=(c.ITEM_ID,),
    written_by="tokenize_items",
    columns=(
        Column(c.ITEM_ID, "string", "External key of the item."),
        Column(c.ITEM_INDEX, "int", "Its row in the vocabulary."),
        Column(c.TOKEN_IDS, "array<int>", "Token ids of the language model, right-padded to T."),
        Column(c.TOKEN_COUNT, "int", "How many of them are real; 0 = the item has no text."),
        Column(c.TEXT_HASH, "string", "SHA-256 of the text that was tokenized."),
        Column(c.TOKENIZER_ID, "string", "Name and content hash of the tokenizer."),
    ),
)

TOKEN_EMBEDDINGS = Table(
    name="token_embeddings",
    doc="Initial row of the token table: a token's mean last hidden state in the catalog, or its input embedding.",
    key=(c.TOKEN_ID,),
    written_by="embed_tokens",
    columns=(
        Column(c.TOKEN_ID, "int", "Token id of the language model."),
        Column(c.VECTOR, "array<float>", "Mean state or input embedding, of the model's own width."),
        Column(c.COUNT, "bigint", "Occurrences in distinct item texts."),
        Column(
            c.LANGUAGE_MODEL,
            "string",
            "Name and content hash of the language model; ends in `#input` where vectors are input embeddings.",
        ),
    ),
)

# States are kept as the language model gives them. Reduced by a PCA of the catalog they would be a tenth of the size,
# but tomorrow's PCA is another one, and a checkpoint could not read the text of an item that came after it.
TEXT_STATES = Table(
    name="text_states",
    doc="Hidden states of the tokens of one distinct item text (`token_init: contextual`, `sentence`, `top_layers`).",
    key=(c.TEXT_HASH,),
    written_by="embed_tokens",
    columns=(
        Column(c.TEXT_HASH, "string", "SHA-256 of the text."),
        Column(
            c.STATES,
            "array<float>",
            "A state per token, one after the other: token_count x width; in `top_layers` those of special tokens too.",
        ),
        Column(c.TOKEN_COUNT, "int", "Tokens of the text, at least 1."),
        Column(c.TOKENIZER_ID, "string", "Name and content hash of the tokenizer."),
        Column(
            c.LANGUAGE_MODEL,
            "string",
            "Name and content hash of the language model; in `top_layers` followed by `#<layer>+<special tokens>`.",
        ),
    ),
)
