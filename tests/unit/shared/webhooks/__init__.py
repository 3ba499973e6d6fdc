"""Tests of webhook signing and of the SSRF protection."""
