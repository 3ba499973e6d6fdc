"""Tests of `shared.connections`."""
