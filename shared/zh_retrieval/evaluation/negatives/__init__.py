"""Hard negatives for training, from the questions of an evaluation."""
