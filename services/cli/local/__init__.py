"""Real servers and our own processes on one machine, supervised."""
