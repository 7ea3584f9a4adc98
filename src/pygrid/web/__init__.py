"""The HTTP side of an app: bodies, errors, authentication, connections, health. No use cases."""
