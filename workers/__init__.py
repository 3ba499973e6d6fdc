"""The processes behind the API: the vision worker, the webhook dispatcher and the reconciler."""
