"""Starts, watches and stops Workers: the Domain's side of `pygrid.features.execution`, which it starts by its module's name."""
