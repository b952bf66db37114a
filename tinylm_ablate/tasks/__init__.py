"""Graph of tasks of a config; each task has an identity, dependencies and an action."""
