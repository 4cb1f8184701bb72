"""The WebSocket engine, without I/O."""
