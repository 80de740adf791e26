"""What comes over the wire, within limits: connections, bodies, and errors as each dialect has them."""
