"""What moves jobs: the vision worker, the webhook courier and the reconciler."""
