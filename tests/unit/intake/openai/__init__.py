"""Tests of OpenAI's surface, driven by OpenAI's own SDK where it can."""
