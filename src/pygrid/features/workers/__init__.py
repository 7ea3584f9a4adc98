"""Workers of other machines: who they are, and how they ask for jobs."""
