"""What there is once in each worker process: open connections, limits, keepalive, counters, and the shutdown."""
