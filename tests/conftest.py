"""Fixtures for all tests, and what every test stands on."""

import signal

pytest_plugins = ["tests.servers"]

# A shell starts what it runs in the background with Ctrl-C ignored, and programs started by tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
