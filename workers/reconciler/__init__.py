"""The reconciler: republishes what nobody claimed, reaps what nobody renews, expires what is late."""
