"""Names of the sources of candidates."""

HISTORY, TASK_HISTORY = "history", "task_history"
NEIGHBOURS, BASKETS, EASE, TEXT = "neighbours", "baskets", "ease", "text"  # item to item
USERS, TRENDING = "users", "trending"
U2I, U2I2I = "u2i", "u2i2i"
ITEM_TO_ITEM = (NEIGHBOURS, BASKETS, EASE, TEXT)
SOURCES = (HISTORY, TASK_HISTORY, *ITEM_TO_ITEM, USERS, TRENDING, U2I, U2I2I)
POPULAR_SOURCE = "popular"  # what the lists of popular items are called together
OF_POPULAR = ("popular_", "first_time_")  # how the name of each of them begins

ALL_LISTS = "lists"  # what the model in use is called
LIST_RANKER_FILE = "list_ranker.json"

# In messages, where nothing was learned.
UNLEARNED_IN_USE = "own history and similar users are in use, popular items behind them"
