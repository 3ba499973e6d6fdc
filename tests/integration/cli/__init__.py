"""Supervision and the embedded servers, with real processes."""
