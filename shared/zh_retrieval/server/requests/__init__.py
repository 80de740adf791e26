"""What a body may hold: kinds of fields, and how JSON becomes a request."""
