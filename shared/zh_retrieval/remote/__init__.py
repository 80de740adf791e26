"""The same handles, computed by a server: ours, or one that speaks TEI's or OpenAI's dialect."""
