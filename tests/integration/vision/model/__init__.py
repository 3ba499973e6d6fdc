"""Tests of workers.vision.model."""
