"""Combines diffs into one: running sums, bounds on outliers, and the server optimizer. Pure numpy on flat vectors."""
