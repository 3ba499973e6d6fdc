"""The HTTP API: light, without torch, Pillow only to read headers."""
