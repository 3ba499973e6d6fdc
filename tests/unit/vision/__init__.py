"""Tests of the model half of the vision worker, without a server."""
