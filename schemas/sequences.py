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
        Column(name=c.USER_ID, type="string", doc="Whose sequence it is."),
        EVENT_TASK,
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
        EVENT_TASK,
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
