"""The plumbing of a server: bodies, errors, who is asking, lifecycle, what is counted. No use cases."""
