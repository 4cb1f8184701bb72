"""Programs that run a server for long, or under attack, and check the result: see README.md."""
