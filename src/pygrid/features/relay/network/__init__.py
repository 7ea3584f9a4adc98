"""The Network's half of the relay: authenticates callers, requests pipes of Domains, and splices the two."""
