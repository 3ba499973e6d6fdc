"""Tests of the store's commands and clients."""
