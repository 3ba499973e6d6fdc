-- End the wait of a slot for a job. ARGV: model, slot. Returns 1 if it was woken meanwhile, else 0.
return stop_waiting(ARGV[1], ARGV[2]) and 1 or 0
