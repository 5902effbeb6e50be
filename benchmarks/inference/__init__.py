"""Measurements of batch inference: encoding, nights where little has changed, scoring of pairs, recall."""
