"""What can be evaluated: embedding models, BM25, rerankers on top of either, and what others bring."""
