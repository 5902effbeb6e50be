"""Tables that training reads: user sequences and the windows cut from them."""

from schemas import columns as c
from schemas.table import EVENT_TASK, Column, Table

USER_SEQUENCES = Table(
    name="user_sequences",
    # `as_of` is one value for the whole table and is in its commits: as a column it would change every row nightly.
    doc="The last N events of one user for one task, oldest first (S_u and S'_u of the paper).",
    key=(c.USER_ID, c.TASK),
    written_by="build_sequences",
    partition_by=(c.TASK, c.BUCKET),
    columns=(
        Column(c.USER_ID, "string", "Whose sequence it is."),
        EVENT_TASK,
        Column(c.ITEM_INDICES, "array<int>", "Vocabulary rows, oldest first, at most N."),
        Column(c.SCENES, "array<string>", "Scene of each event, parallel to `item_indices`."),
        Column(c.EVENT_TS, "array<timestamp>", "Time of each event, parallel, never decreasing, UTC."),
        Column(c.LENGTH, "int", "Length of the three arrays, at least 1."),
        Column(c.LAST_EVENT_TS, "timestamp", "Time of the newest event, before `as_of`, UTC."),
        Column(c.BUCKET, "int", "pmod(xxhash64(user_id), buckets)."),
    ),
)

TRAINING_WINDOWS = Table(
    name="training_windows",
    doc="A slice of one user's sequence, left-padded to a fixed length; what Petastorm reads.",
    key=(c.WINDOW_ID,),
    written_by="build_windows",
    partition_by=(c.TASK, c.SPLIT),
    columns=(
        Column(c.WINDOW_ID, "string", "task/split/user_id/number of the slice."),
        EVENT_TASK,
        Column(c.SPLIT, "string", "`train`; `validation`, or `test` (leave-one-out): a history and its truth."),
        Column(c.ITEM_INDICES, "array<int>", "Vocabulary rows, oldest first, left-padded with 0."),
        Column(c.EVENT_TS, "array<bigint>", "Epoch seconds of each event, left-padded with 0."),
        Column(c.LENGTH, "int", "Real positions, at the right end of the arrays."),
        Column(c.TARGET_INDICES, "array<int>", "Truth of a validation or test window, right-padded with 0."),
        Column(c.TARGET_COUNT, "int", "Real entries of `target_indices`; 0 in the train split."),
    ),
)
