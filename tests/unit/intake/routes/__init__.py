"""Tests of services/intake/routes."""
