"""Give every item a row in the vocabulary and tokenize its text (section III).

Only texts that are new or have changed are tokenized. With text.published_only an item waits until it is published.

Reads items, and item_vocabulary and item_tokens of the previous night. Writes item_vocabulary (append-only) and
item_tokens.
"""

from precise_core.command import command
from precise_core.run.job import Job
from precise_core.text.language_model import tokenizer_id
from precise_core.text.night import gather_catalog, new_vocabulary_rows
from precise_core.text.tokens import tokenize_items, unknown_texts
from schemas import ITEM_TOKENS, ITEM_VOCABULARY
from schemas import columns as c
from validation.gate import gate


@command()
def main(job: Job) -> None:
    text = job.settings.text
    job.say(f"tokenizer {tokenizer_id(text.language_model)}, {text.max_tokens} tokens per item")
    new = job.append(ITEM_VOCABULARY, new_vocabulary_rows(job))
    job.say(f"vocabulary: {new:,} new items")

    catalog = gather_catalog(job)
    items, vocabulary, known = catalog.items, catalog.vocabulary, catalog.known_tokens
    texts = unknown_texts(items, text, known).count()
    job.metrics["texts_tokenized"] = texts
    job.say(f"texts: {texts:,} are new or have changed, the tokens of all others are kept")
    tokens = tokenize_items(items, vocabulary, text, known).persist()
    job.check(gate(ITEM_TOKENS, tokens, run_id=job.run_id, max_tokens=text.max_tokens))
    written = job.write(ITEM_TOKENS, tokens)
    unknown = items.join(vocabulary, on=c.ITEM_ID, how="left_anti").count()
    job.balance("items", rows_in=items.count(), rows_out=written, rows_rejected=unknown)


if __name__ == "__main__":
    raise SystemExit(main())
