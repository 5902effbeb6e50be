"""Peer libraries on the same data, sizes and protocol; each script runs in its library's own environment."""
