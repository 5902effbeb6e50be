"""Run the language model over the catalog and keep the mean hidden state of every token (eq. 2, mode `vocab`).

Reads item_tokens. Writes token_embeddings, from which the token table of a new universal model starts.
"""

from collections.abc import Sequence

from pyspark.sql import functions as F

from precise_core.inference.text import embed_tokens
from precise_core.runtime.job import Job, run_job
from precise_core.text.language_model import language_model_id
from schemas import ITEM_TOKENS, TOKEN_EMBEDDINGS
from schemas import columns as c


def embed(job: Job) -> None:
    text = job.settings.text
    tokens = job.read(ITEM_TOKENS)
    texts = tokens.where(F.col(c.TOKEN_COUNT) > 0).select(c.TEXT_HASH).distinct().count()
    job.say(f"language model {language_model_id(text.language_model)} over {texts:,} distinct texts")
    job.write(TOKEN_EMBEDDINGS, embed_tokens(tokens, text, job.settings.spark.shuffle_partitions))

    distinct = tokens.select(F.explode(F.slice(c.TOKEN_IDS, 1, F.col(c.TOKEN_COUNT)))).distinct().count()
    embedded = job.read_written(TOKEN_EMBEDDINGS).count()
    job.balance("distinct tokens", rows_in=distinct, rows_out=embedded)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("embed_tokens", __doc__, embed, argv)


if __name__ == "__main__":
    raise SystemExit(main())
