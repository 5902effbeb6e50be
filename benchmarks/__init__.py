"""Measurements of speed, scale and quality; results/*.jsonl hold what they found."""
