"""Tests of services/intake/submission."""
