"""Training in rounds over the same data (Section 4.2): which batches come again, and what was forgotten."""
