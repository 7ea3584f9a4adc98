"""Workers on other machines: their authorization, and the leases of their jobs."""
