"""Programs that treat a server badly, or for long, and look at what is left: see README.md."""
