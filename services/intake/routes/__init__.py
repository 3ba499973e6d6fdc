"""The routes, one module a resource: each parses, calls, responds."""
