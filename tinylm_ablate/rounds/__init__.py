"""Training in rounds over the same data (Section 4.2)."""

#: File of batch losses in a run's folder.
LOSSES = "batch_losses.parquet"

#: File of batch losses of an unfinished pass.
UNFINISHED_LOSSES = "batch_losses.part"

#: Rules that use batch losses.
NEED_LOSSES = ("loss", "top")
