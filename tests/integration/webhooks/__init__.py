"""Webhook delivery against real servers."""
