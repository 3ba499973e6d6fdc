"""Tests of the model half of the vision worker, on whole checkpoints."""
