"""Item text, its tokens and their vectors by a language model.

The room is of the Spark wing. torch and transformers are imported in `language_model.py` alone, inside the functions
that load a model or run one: importing the room needs neither.
"""
