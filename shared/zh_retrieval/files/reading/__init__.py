"""Files of any kind to rows, and rows to records."""
