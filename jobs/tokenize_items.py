"""Give every item a row in the vocabulary and tokenize its text (section III).

Only texts that are new or have changed are tokenized. With text.published_only an item waits until it is published.

Reads items, and item_vocabulary and item_tokens of the previous night. Writes item_vocabulary (append-only) and
item_tokens.
"""

from precise_core.command import command
from precise_core.run.job import Job
from precise_core.text.language_model import tokenizer_id
from precise_core.text.states import tokenize_items, unknown_texts
from precise_core.text.vocabulary import grow_vocabulary, published_before
from schemas import ITEM_TOKENS, ITEM_VOCABULARY, ITEMS
from schemas import columns as c
from validation.gate import gate


@command()
def main(job: Job) -> None:
    settings = job.settings
    job.say(f"tokenizer {tokenizer_id(settings.text.language_model)}, {settings.text.max_tokens} tokens per item")
    items = job.read(ITEMS)
    known = job.read_optional(ITEM_VOCABULARY)
    grown_by = published_before(items, settings.as_of) if settings.text.published_only else items
    new = job.append(ITEM_VOCABULARY, grow_vocabulary(grown_by, known, settings.as_of))
    job.say(f"vocabulary: {new:,} new items")

    vocabulary = job.read_written(ITEM_VOCABULARY)
    tokenized = job.read_optional(ITEM_TOKENS)
    texts = unknown_texts(items, settings.text, tokenized).count()
    job.metrics["texts_tokenized"] = texts
    job.say(f"texts: {texts:,} are new or have changed, the tokens of all others are kept")
    tokens = tokenize_items(items, vocabulary, settings.text, tokenized).persist()
    job.check(gate(ITEM_TOKENS, tokens, run_id=job.run_id, max_tokens=settings.text.max_tokens))
    written = job.write(ITEM_TOKENS, tokens)
    unknown = items.join(vocabulary, on=c.ITEM_ID, how="left_anti").count()
    job.balance("items", rows_in=items.count(), rows_out=written, rows_rejected=unknown)


if __name__ == "__main__":
    raise SystemExit(main())
