"""The making of the demo checkpoint."""
