"""Measures of finished runs: records of their own, made from kept weights without training."""
