"""Programs to copy from; the tests run each of them on the built-in model."""
