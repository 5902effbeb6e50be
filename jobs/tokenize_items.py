"""Give every item a row in the vocabulary and tokenize its text (section III).

Reads items. Writes item_vocabulary (append-only) and item_tokens. With text.published_only an item waits until it is
published.
"""

from collections.abc import Sequence

from precise_core.features.vocabulary import grow_vocabulary, published_before
from precise_core.inference.text import tokenize_items
from precise_core.runtime.job import Job, run_job
from precise_core.text.language_model import tokenizer_id
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, ITEMS
from schemas import columns as c


def tokenize(job: Job) -> None:
    settings = job.settings
    job.say(f"tokenizer {tokenizer_id(settings.text.language_model)}, {settings.text.max_tokens} tokens per item")
    items = job.read(ITEMS)
    known = job.read_optional(ITEM_VOCABULARY)
    grown_by = published_before(items, settings.as_of) if settings.text.published_only else items
    new = job.append(ITEM_VOCABULARY, grow_vocabulary(grown_by, known, settings.as_of))
    job.say(f"vocabulary: {new:,} new items")

    vocabulary = job.read_written(ITEM_VOCABULARY)
    written = job.write(ITEM_TOKENS, tokenize_items(items, vocabulary, settings.text))
    unknown = items.join(vocabulary, on=c.ITEM_ID, how="left_anti").count()
    job.balance("items", rows_in=items.count(), rows_out=written, rows_rejected=unknown)


def main(argv: Sequence[str] | None = None) -> int:
    return run_job("tokenize_items", __doc__, tokenize, argv)


if __name__ == "__main__":
    raise SystemExit(main())
