"""Apps in containers: where they listen, and their health check."""
