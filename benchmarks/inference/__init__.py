"""Measurements of batch inference: encoding, and what a night costs where little has changed."""
