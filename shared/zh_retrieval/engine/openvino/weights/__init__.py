"""The weights of a graph: as constants, rounded, and rounded ones kept in files for the next start."""
