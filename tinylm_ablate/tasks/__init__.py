"""Graph of tasks that a config becomes; each has an identity, dependencies and an action."""
