"""Run the language model over the catalog (eq. 2), as `model.fusion.token_init` says.

`vocab` and `input` write token_embeddings, from which the token table of a new universal model starts: the mean hidden
state of every token, or its input embedding. `contextual` and `sentence` write text_states, the hidden states of every
text; so does `top_layers`, of the layer below those that are trained.

Reads item_tokens, and text_states of earlier nights, whose texts are not read again. Writes token_embeddings or
text_states.
"""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.command import command
from precise_core.run.job import Job
from precise_core.text.language_model import hidden_size, language_model_id
from precise_core.text.night import prepare_states, prepare_vectors
from schemas import ITEM_TOKENS, TEXT_STATES, TOKEN_EMBEDDINGS
from schemas import columns as c
from validation.gate import gate


@command()
def main(job: Job) -> None:
    text, mode = job.settings.text, job.settings.model.fusion.token_init
    tokens = job.read(ITEM_TOKENS)
    texts = tokens.where(F.col(c.TOKEN_COUNT) > 0).select(c.TEXT_HASH).distinct().count()
    job.say(f"language model {language_model_id(text.language_model)}, mode `{mode}`, over {texts:,} distinct texts")
    if mode in ("contextual", "sentence", "top_layers"):
        job.balance("distinct texts", rows_in=texts, rows_out=_write_states(job, tokens))
    else:
        _write_vectors(job, tokens)


def _write_states(job: Job, tokens: DataFrame) -> int:
    text, states = job.settings.text, prepare_states(job, tokens)
    with job.watching("language model over new texts"):
        limits: dict[str, Any] = {"width": hidden_size(text.language_model), "max_tokens": text.max_tokens}
        outcome = gate(TEXT_STATES, states, run_id=job.run_id, **limits)
    job.check(outcome)
    return job.write(TEXT_STATES, states)


def _write_vectors(job: Job, tokens: DataFrame) -> None:
    job.write(TOKEN_EMBEDDINGS, prepare_vectors(job, tokens))
    distinct = tokens.select(F.explode(F.slice(c.TOKEN_IDS, 1, F.col(c.TOKEN_COUNT)))).distinct().count()
    embedded = job.read_written(TOKEN_EMBEDDINGS).count()
    job.balance("distinct tokens", rows_in=distinct, rows_out=embedded)


if __name__ == "__main__":
    raise SystemExit(main())
