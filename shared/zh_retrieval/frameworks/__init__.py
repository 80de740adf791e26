"""What the adapters of both frameworks share; needs pydantic, which both bring."""
