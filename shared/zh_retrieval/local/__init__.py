"""Encoders and rerankers that compute in this process."""
