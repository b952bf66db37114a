"""Executor: workers that do the tasks of a graph, on this machine or elsewhere, with plan, status and progress."""
