"""Plans for clients of 2020 from the trace of a training step."""
