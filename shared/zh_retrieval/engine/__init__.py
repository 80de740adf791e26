"""Batches on a device: the scheduler that makes them and what runs them."""
