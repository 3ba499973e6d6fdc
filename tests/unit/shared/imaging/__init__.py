"""Tests of shared.imaging."""
