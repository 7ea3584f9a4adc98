"""How diffs become one: running sums, bounds on outliers, and the server's optimizer. Pure numpy on flat vectors."""
