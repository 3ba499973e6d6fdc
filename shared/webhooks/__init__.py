"""Webhooks: what is signed, and which addresses may be called."""
