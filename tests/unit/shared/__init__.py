"""Tests of what everyone shares."""
