"""A gateway that users run, in front of the service."""
