"""A role that tells how it was started."""
