"""A folder of weights as a checked model."""
