"""The pages under docs/, run against stand-ins on this machine."""
