"""Optimizers, schedules, and the learning rate as a function of the batch size (Section 4.1)."""
