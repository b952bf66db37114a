"""Training in rounds over the same data (Section 4.2): which batches are repeated, and what was forgotten."""

#: The file of a run's batch losses, in its folder.
LOSSES = "batch_losses.parquet"

#: And those of a pass that has not ended.
UNFINISHED_LOSSES = "batch_losses.part"

#: Rules that look at the losses of batches.
NEED_LOSSES = ("loss", "top")
