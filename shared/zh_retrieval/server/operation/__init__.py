"""What those need who run the server: health, metrics, logs, memory."""
