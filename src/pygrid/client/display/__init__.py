"""Tables, review summaries and progress, for terminals and notebooks."""
