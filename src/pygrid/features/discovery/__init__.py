"""Search over all Domains of a Network, and who hosts which model."""
