"""One file for each format: its bytes or lines to rows."""
