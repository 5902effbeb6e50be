"""Every column name of every table, once. Code refers to these constants, never to a literal."""

from typing import Final

# identity
USER_ID = "user_id"  # external key of a user
ITEM_ID = "item_id"  # external key of an item
ITEM_INDEX = "item_index"  # dense model row of an item: 0 padding, 1 unknown, 2.. items
EVENT_ID = "event_id"
TASK = "task"
SPLIT = "split"
HELD_OUT_SHARE = "held_out_share"
MODEL_VERSION = "model_version"
RANKER_VERSION = "ranker_version"
AS_OF = "as_of"
INDEX_VERSION = "index_version"
VALID_FROM = "valid_from"

# events
SCENE = "scene"
ACTION = "action"
EVENT_TS = "event_ts"
EVENT_DATE = "event_date"
VALUE = "value"

# items
TITLE = "title"
DESCRIPTION = "description"
CATEGORIES = "categories"
ATTRIBUTES = "attributes"
PUBLISHED_TS = "published_ts"
UPDATED_TS = "updated_ts"
IS_DELETED = "is_deleted"

# own files
FILE_SEQUENCE = "file_sequence"

# rejected rows
RAW = "raw"
REASON = "reason"
SOURCE_FILE = "source_file"
REJECTED_AT = "rejected_at"

# files taken
TABLE_NAME = "table_name"
PATH = "path"

# vocabulary and text
FIRST_SEEN = "first_seen"
TOKEN_ID = "token_id"
TOKEN_IDS = "token_ids"
TOKEN_COUNT = "token_count"
TEXT_HASH = "text_hash"
TOKENIZER_ID = "tokenizer_id"
VECTOR = "vector"
COUNT = "count"
LANGUAGE_MODEL = "language_model"
STATES = "states"

# sequences and windows
ITEM_INDICES = "item_indices"
SCENES = "scenes"
LENGTH = "length"
LAST_EVENT_TS = "last_event_ts"
BUCKET = "bucket"
WINDOW_ID = "window_id"
TARGET_INDICES = "target_indices"
TARGET_COUNT = "target_count"

# inference
EMBEDDING = "embedding"
QUERY_EMBEDDING = "query_embedding"
EMBEDDED_AT = "embedded_at"
IS_COLD = "is_cold"
SEQUENCE_HASH = "sequence_hash"
SCORE = "score"
RANK = "rank"
SOURCE = "source"
SEED_ITEM_ID = "seed_item_id"

# recommendations
NEIGHBOUR_ID = "neighbour_id"
NEIGHBOUR_INDEX = "neighbour_index"
IS_REPEAT = "is_repeat"
CATEGORY = "category"
TEXT_GROUP = "text_group"
LIST = "list"
PROBABILITY = "probability"
SOURCES = "sources"

# ranking
IMPRESSION_ID = "impression_id"
IMPRESSION_TS = "impression_ts"
LABEL = "label"
CONTEXT = "context"
SPARSE_FEATURES = "sparse_features"
DENSE_FEATURES = "dense_features"
USER_EMBEDDING = "user_embedding"
ITEM_EMBEDDING = "item_embedding"
PRECISE_SCORE = "precise_score"
VECTOR_SPACE = "vector_space"

# bookkeeping
RUN_ID = "run_id"
JOB = "job"

# values: rows 0 and 1 of every table by item_index, then items
PADDING_INDEX, UNKNOWN_INDEX, FIRST_ITEM_INDEX = 0, 1, 2
# of `split`
TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
SPLITS = (TRAIN, VALIDATION, TEST)
# of `source`
U2I, U2I2I, POPULAR = "u2i", "u2i2i", "popular"
# of `system`: the platform's own
PRECISE_UT, PRECISE, PRECISE_UNTRAINED = "PRECISE-UT", "PRECISE", "PRECISE-UT untrained"
DCN = "DCN"
# of `user_id` in `recommendations`: whoever has no lists of his own
ANYBODY = "(anybody)"
