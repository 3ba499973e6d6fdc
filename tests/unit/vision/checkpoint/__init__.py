"""Tests of workers.vision.checkpoint."""
