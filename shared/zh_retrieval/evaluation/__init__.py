"""Which of the models, on data of one's own, and does reranking pay."""
