"""What moves jobs: the vision worker, the webhook dispatcher and the reconciler."""
