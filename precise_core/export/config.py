"""Configuration of the stores outside that `export_vectors` fills."""

from __future__ import annotations

from pydantic import Field, model_validator

from precise_core.config import Config
from precise_core.config.addresses import require_no_secret

_SCHEMES = ("redis://", "rediss://", "unix://")


class RedisConfig(Config):
    """A Redis server, or one that speaks its protocol. Its password is in `PRECISE_REDIS_PASSWORD`, if it has one."""

    url: str = Field(
        description="Address, `redis://host:6379/0`; `rediss://` for TLS, `unix:///path` for a socket.",
    )
    user: str | None = Field(None, description="Name to sign in with; null = that of the server's default user.")
    prefix: str = Field(
        "precise",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="First part of every key. Everything below it belongs to one warehouse.",
    )
    grace_seconds: int = Field(3600, ge=1, description="How long what was replaced can still be read.")

    @model_validator(mode="after")
    def _is_an_address_without_password(self) -> RedisConfig:
        require_no_secret("url", self.url, "PRECISE_REDIS_PASSWORD and the name to `user`")
        if not self.url.startswith(_SCHEMES):  # not by a pattern, which would print the password of another scheme
            raise ValueError(f"url must begin with one of {', '.join(_SCHEMES)}")
        return self


class MilvusConfig(Config):
    """A Milvus server or cluster. Its token (`name:password`) is in `PRECISE_MILVUS_TOKEN`, if it has one."""

    uri: str = Field(description="Address, `http://host:19530`; the path of a file for Milvus Lite.")
    prefix: str = Field(
        "precise",
        pattern=r"^[A-Za-z][A-Za-z0-9]*$",
        description="First part of the name of every collection and alias. They belong to one warehouse.",
    )
    users: bool = Field(False, description="Users' vectors too, not items' alone.")

    @model_validator(mode="after")
    def _holds_no_password(self) -> MilvusConfig:
        require_no_secret("uri", self.uri, "PRECISE_MILVUS_TOKEN")
        return self


class ExportConfig(Config):
    """Where the published vectors are sent to, and how; nowhere by default."""

    redis: RedisConfig | None = Field(None, description="Vectors by key.")
    milvus: MilvusConfig | None = Field(None, description="Vectors to be searched.")
    batch_rows: int = Field(1000, ge=1, description="Vectors read and sent at a time.")
    sample: int = Field(1000, ge=1, description="Vectors of each kind and task that are read back and compared.")
    tries: int = Field(5, ge=1, description="How often a store that does not answer is tried.")
    timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="A store that takes longer for one answer does not answer; Milvus: when it is connected.",
    )
