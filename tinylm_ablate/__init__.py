"""Composable, cheap, resumable and statistically honest ablations of tiny language models."""

__version__ = "0.1.0"
