"""Training: the LightningModule, the fit, and checkpoints that resume exactly."""
