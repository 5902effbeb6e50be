"""For the teams that read the tables: recommendations, published vectors as of an instant, how fresh it all is.

    from precise_core import consume

    consume.recommendations("build/demo/warehouse", ["1", "13"], k=10)       # what to show two users
    consume.published("build/demo/warehouse")                                # which checkpoint to read
    consume.freshness("build/demo/warehouse")                                # how old each table is
    consume.read_table("build/demo/warehouse", "ranking_features")           # a whole table, as Arrow
    consume.join_vectors(rows, "build/demo/warehouse", at="impression_ts")   # pandas or Arrow

In Spark: `precise_core.consume.join_spark.join_vectors`.

Importing this package starts no Spark and imports no torch.
"""

from precise_core.consume.ages import freshness
from precise_core.consume.join import AS_OF, PUBLISHED, join_vectors
from precise_core.consume.lists import recommendations
from precise_core.consume.publications import Publication, publication_history, published
from precise_core.warehouse.reader import read_table

__all__ = [
    "AS_OF",
    "PUBLISHED",
    "Publication",
    "freshness",
    "join_vectors",
    "publication_history",
    "published",
    "read_table",
    "recommendations",
]
