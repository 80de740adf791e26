"""Files of records and vectors: what commands and jobs read and write."""
