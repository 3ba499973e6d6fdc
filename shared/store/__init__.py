"""The job store: one Lua script for each atomic command, and the clients that run them."""
