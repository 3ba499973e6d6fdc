"""Engines: their interface, and what they share, without a model."""
