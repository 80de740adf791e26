"""What is wrong with data and rankings, counted and named: a mean would hide it."""
