"""Tests of workers.vision.images."""
