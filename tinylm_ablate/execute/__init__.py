"""The one executor: workers that walk a graph of tasks, on this machine or elsewhere, and what that costs and shows."""
