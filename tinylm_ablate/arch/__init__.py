"""The decoder, and everything that follows from its shape alone."""
