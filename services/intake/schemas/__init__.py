"""What clients write and what they read."""
