"""Tests of workers.vision.bench."""
