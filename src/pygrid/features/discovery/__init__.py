"""Search over all Domains of a Network, and the hosts of a model."""
