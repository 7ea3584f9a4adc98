"""Model owners host a process, watch it, download its checkpoints and finish it."""
