"""Measures models on this machine, against the peers that are installed."""
