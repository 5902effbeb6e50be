"""Configuration of the server."""

from __future__ import annotations

from pydantic import Field

from precise_core.config import Config


class ServingConfig(Config):
    """Where `serve` listens, and what one request may ask of it."""

    host: str = Field(
        "127.0.0.1",
        description="Address it listens on; another than this machine's own needs a token in `PRECISE_SERVING_TOKEN`.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port it listens on; 0 = one that is free.")
    workers: int = Field(1, ge=1, description="Processes that answer; they share the pages of the vectors.")
    search_threads: int = Field(2, ge=1, description="Searches at a time in one process; others wait.")
    max_k: int = Field(500, ge=1, description="Most items that a request may ask for.")
    max_pairs: int = Field(1000, ge=1, description="Most pairs that a request may have scored.")
    max_body_bytes: int = Field(1_048_576, ge=1, description="Largest body of a request; a larger one gets 413.")
    max_concurrent: int = Field(
        128, ge=1, description="Requests that a process works on at a time; the next gets 503 and may try again."
    )
    timeout_seconds: float = Field(5.0, gt=0, description="A request that takes longer gets 504.")
    poll_seconds: float = Field(2.0, gt=0, description="Pause between two looks at what is published.")
    retry_seconds: float = Field(
        30.0, gt=0, description="A publication that was refused is looked at again after so long, or when it changes."
    )
