"""How servers are talked to: one file a dialect."""
