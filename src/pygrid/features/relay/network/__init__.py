"""The Network's half of the relay: lets callers in, asks Domains for pipes, and splices the two."""
