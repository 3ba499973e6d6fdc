"""The chaos harness' own truth: what it says of a service is what was done to it."""
