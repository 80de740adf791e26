"""Model bodies that transformers lacks."""
