"""Runs one job beside the data: fork, sandbox, trusted runner. This side never talks to a database or a network."""
