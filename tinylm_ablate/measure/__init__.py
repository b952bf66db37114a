"""Measures of finished runs, computed from their weights and stored as separate records."""
