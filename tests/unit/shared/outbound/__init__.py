"""Tests of calls to addresses that clients name."""
