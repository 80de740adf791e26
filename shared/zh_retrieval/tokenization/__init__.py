"""Texts to sequences of token ids."""
