"""Benchmarks of batch inference, scoring and recall."""
