"""Tests of workers.vision.tools."""
