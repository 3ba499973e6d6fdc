"""What is shipped, against real programs."""
