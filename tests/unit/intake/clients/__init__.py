"""Tests of services/intake/clients."""
