"""Figures of the data plane: `make bench-data`."""
