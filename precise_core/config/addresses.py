"""Addresses of servers in a configuration."""

from __future__ import annotations

from urllib.parse import urlsplit


def require_no_secret(key: str, address: str, instead: str) -> None:
    """Refuse an address with a name or a password; configurations are kept with every run.

    To be called of a whole section: of a single key the message would repeat the value.

    Raises:
        ValueError: It holds one; ``instead`` says where a password belongs.
    """
    parts = urlsplit(address)
    if "@" in parts.netloc or "password" in parts.query.lower():
        raise ValueError(f"{key} holds a name or a password; give the password in {instead}")
