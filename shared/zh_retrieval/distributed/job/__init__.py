"""Files to vectors over a cluster: ranges of rows, and one part of the output for each of them, exactly once."""
