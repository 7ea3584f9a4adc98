"""Where jobs and served models run: drivers, and the processes that they start."""
