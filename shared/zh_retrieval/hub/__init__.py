"""Weights from a hub: what is on this machine, downloads that are verified and resume."""
