"""Answer over HTTP from what is published: vectors, scores, similar items, recommendations, with a page to look at.

Runs until it is stopped. A new publication is taken over while the old one answers; one that is damaged is refused.

Reads published_models, user_embeddings, user_sequences, item_vocabulary, items, events, recommendations and the
published indexes. Writes <warehouse>/serving: what it maps. It is no part of a night and has no row in `runs`.
"""

from collections.abc import Sequence
from pathlib import Path

from precise_core.config import load_config
from precise_core.serving.command import ServeCommand
from precise_core.serving.served import Served
from precise_core.settings import Settings


def _served(config: str, overrides: Sequence[str]) -> Served:
    settings = load_config(config, Settings, overrides)
    return Served(warehouse=settings.warehouse, tasks=settings.tasks, recall=settings.recall, serving=settings.serving)


main = ServeCommand(Path(__file__).stem, __doc__, _served)

if __name__ == "__main__":
    raise SystemExit(main())
