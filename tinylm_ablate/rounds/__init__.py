"""Training in rounds over the same data (Section 4.2): which batches come again, and what was forgotten."""

#: The file of a run's batch losses, in its folder.
LOSSES = "batch_losses.parquet"

#: Rules that look at the losses of batches.
NEED_LOSSES = ("loss", "top")
