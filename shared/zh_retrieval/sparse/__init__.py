"""Words instead of meaning: terms, BM25, sparse vectors, and the fusion of both kinds of search."""
