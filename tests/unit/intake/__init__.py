"""Tests of intake over its doubles."""
