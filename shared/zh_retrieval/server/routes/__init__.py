"""What answers beside the dialects: health and metrics, the documentation, the playground."""
