"""The decoder and everything that can be said about it from its shape alone."""
