"""Runs one job next to the data: fork, sandbox, trusted runner. It never connects to a database or a network."""
