"""Parts of a forward pass over packed rows."""
