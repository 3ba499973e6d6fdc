"""Engines that compute, on a small checkpoint of our own."""
