"""What a config becomes: a small graph of tasks, each with an identity, what it needs, and what it does."""
