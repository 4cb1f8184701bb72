"""One WebSocket connection, from the taken socket to what application code holds."""
