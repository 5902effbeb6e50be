"""Tables of the lists: what is similar, the features of candidates, and the recommendations themselves."""

from schemas import columns as c
from schemas.table import AS_OF, EVENT_TASK, Column, Table

ITEM_NEIGHBOURS = Table(
    name="item_neighbours",
    doc="An item that goes with another one: users had both, or it is new and reads like it.",
    key=(c.SOURCE, c.ITEM_ID, c.RANK),
    written_by="build_neighbours",
    partition_by=(c.SOURCE,),
    columns=(
        Column(
            c.SOURCE,
            "string",
            "`neighbours` (users had both), `baskets` (at one instant), `ease` (EASE, of the most frequent items) or "
            "`text` (new items that read like it).",
        ),
        Column(c.ITEM_ID, "string", "The item that is looked up."),
        Column(c.RANK, "int", "1 = most similar."),
        Column(c.NEIGHBOUR_ID, "string", "The item that goes with it."),
        Column(
            c.SCORE, "float", "Cosine with shrinkage of `neighbours` and `baskets`; weight of EASE; cosine of `text`."
        ),
        Column(c.ITEM_INDEX, "int", "Vocabulary row of the item."),
        Column(c.NEIGHBOUR_INDEX, "int", "Vocabulary row of the neighbour."),
        AS_OF,
    ),
)

# (name, what it is): log1p of every count and every number of days, as a model reads them.
_PAIR = (
    ("events", "events of all time"),
    ("events_7d", "events of 7 days"),
    ("events_28d", "events of 28 days"),
    ("events_84d", "events of 84 days"),
    ("decayed_10d", "events, halved every 10 days"),
    ("decayed_31d", "events, halved every 31 days"),
    ("decayed_125d", "events, halved every 125 days"),
    ("days", "days with an event"),
    ("first_age", "days since the first"),
    ("last_age", "days since the last"),
    ("interval", "mean days between two such days; 0 = unknown"),
    ("overdue", "days since the last / interval; 0 = unknown"),
)
_OF_PAIR = {
    "item": ("the user's events on the item", tuple(name for name, _ in _PAIR)),
    "task_item": ("the same of the task", ("events", "events_28d", "decayed_125d", "last_age", "overdue")),
    "category": (
        "the user's events in the item's narrowest category",
        ("events_28d", "decayed_31d", "decayed_125d", "last_age", "overdue"),
    ),
    "text": ("the user's events on items of the same text", ("events", "decayed_31d", "last_age")),
}
_USER = (
    ("user_item_share", "The item's share of the user's events."),
    ("user_events", "Events of the user, log1p."),
    ("user_events_28d", "Events of the user in 28 days, log1p."),
    ("user_items", "Distinct items of the user, log1p."),
    ("user_repeat_share", "Share of the user's events on items had before."),
    ("user_new_items_28d", "Items the user had for the first time in 28 days, log1p."),
    ("user_first_age", "Days since the user's first event, log1p."),
    ("user_last_age", "Days since the user's last event, log1p."),
)
_ITEM = (
    ("popular", "events of all users, log1p"),
    ("popular_1d", "events of 1 day, log1p"),
    ("popular_3d", "events of 3 days, log1p"),
    ("popular_7d", "events of 7 days, log1p"),
    ("popular_28d", "events of 28 days, log1p"),
    ("first_time_7d", "users who had it for the first time in 7 days, log1p"),
    ("first_time_28d", "users who had it for the first time in 28 days, log1p"),
    ("users", "users who ever had it, log1p"),
    ("repeat_rate", "share of its users who had it more than once"),
    ("age", "days since its first event, log1p"),
    ("idle", "days since its last event, log1p"),
    ("trend", "log of its events of 7 days x 4 over those of 28 days"),
    ("category_share", "its share of the events of 28 days in its category"),
    ("text_share", "its share of the events of 28 days on items of its text"),
)
_OF_ITEM = {
    "all": ("all events", tuple(name for name, _ in _ITEM)),
    "task": ("the task", ("popular_1d", "popular_7d", "popular_28d", "first_time_28d", "users", "age")),
}
_RANKED = (
    *("history", "task_history", "neighbours", "baskets", "ease", "text", "users", "u2i", "u2i2i"),
    *("popular_1d", "popular_3d", "popular_7d", "popular_28d", "popular_ever", "first_time_7d", "first_time_28d"),
)
_SCORED = ("history", "neighbours", "baskets", "ease", "text", "users")


def _features() -> tuple[Column, ...]:
    texts = {
        f"{about}_{name}": f"{words}: {dict(_PAIR)[name]}, log1p."
        for about, (words, names) in _OF_PAIR.items()
        for name in names
    }
    texts |= dict(_USER)
    texts |= {
        f"{about}_{name}": f"Item, of {words}: {dict(_ITEM)[name]}."
        for about, (words, names) in _OF_ITEM.items()
        for name in names
    }
    texts |= {f"rank_{source}": f"1 / sqrt(rank) in `{source}`; 0 = not among its best." for source in _RANKED}
    for source in _SCORED:
        texts[f"score_{source}"] = f"Score in `{source}`; 0 = none."
        texts[f"relative_{source}"] = f"The score over the user's best one in `{source}`."
    return tuple(Column(name, "float", text[0].upper() + text[1:]) for name, text in texts.items())


FEATURES = _features()
FEATURE_NAMES = tuple(column.name for column in FEATURES)

CANDIDATE_FEATURES = Table(
    name="candidate_features",
    doc="A candidate of a user and a task before an instant, with everything the ranking model of lists reads.",
    key=(c.USER_ID, c.TASK, c.ITEM_ID, c.AS_OF),
    written_by="build_candidate_features",
    columns=(
        Column(c.USER_ID, "string", "External key of the user; one of the fixed sample."),
        EVENT_TASK,
        Column(c.ITEM_ID, "string", "The candidate."),
        AS_OF,
        Column(c.LABEL, "int", "1 = taken in the period that followed (`recommendations.horizon_days`), 0 = not."),
        Column(c.SPLIT, "string", "train, or validation: users held out to choose and to gate."),
        Column(
            c.HELD_OUT_SHARE, "double",
            "Share of the users who are held out; those of a smaller share are among those of a larger one. 1 = all of "
            "them, in turn.",
            nullable=True,
        ),
        Column(c.IS_REPEAT, "boolean", "The user had the item before the instant."),
        Column(
            c.MODEL_VERSION, "string", "Checkpoint of the scores: the one published then; null = none was.",
            nullable=True,
        ),
        Column(
            "precise_universal", "float", "Dot product of the universal vectors of then; null = none.", nullable=True
        ),
        Column("precise_targeted", "float", "Dot product of the task's vectors of then; null = none.", nullable=True),
        *FEATURES,
    ),
)  # fmt: skip

RECOMMENDATIONS = Table(
    name="recommendations",
    doc="An item on a list of recommendations of a user.",
    key=(c.USER_ID, c.TASK, c.LIST, c.RANK),
    written_by="recommend",
    partition_by=(c.TASK,),
    columns=(
        Column(c.USER_ID, "string", "External key of the user; `(anybody)`: for whoever has no lists here."),
        EVENT_TASK,
        Column(c.LIST, "string", "Which list: a name of `recommendations.lists` (`all`, `new`, `repeat`)."),
        Column(c.RANK, "int", "1 = first."),
        Column(c.ITEM_ID, "string", "The item."),
        Column(c.SCORE, "float", "What it was ranked by; comparable within a user and task."),
        Column(
            c.PROBABILITY, "float", "Calibrated probability that it is taken within the horizon; null = not learned.",
            nullable=True,
        ),
        Column(c.SOURCES, "array<string>", "The sources that found it; `popular` = a list of popular items."),
        Column(c.REASON, "string", "One reason in words."),
        Column(c.SEED_ITEM_ID, "string", "The item of the user that the reason names.", nullable=True),
        Column(
            c.MODEL_VERSION, "string",
            "What ranked it: a model of lists, or a simple order; `popular_28d` or `popular`: the user has no history.",
        ),
        AS_OF,
    ),
)  # fmt: skip
