"""WebSockets for synchronous Python web applications."""
