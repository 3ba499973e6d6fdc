"""Delivers signed webhooks; knows nothing of models."""
