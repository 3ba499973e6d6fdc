"""The reconciler: republishes hints of unclaimed jobs, reaps expired leases, ends overdue jobs."""
