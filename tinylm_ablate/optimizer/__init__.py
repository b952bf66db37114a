"""Optimizers, schedules, and the rule from batch to learning rate (Section 4.1)."""
