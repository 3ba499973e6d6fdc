-- End the wait of a slot for a job. ARGV: model, slot. Returns 1 if it was woken meanwhile, else 0.
call('DEL', P .. 'wake:' .. ARGV[2])
return 1 - call('ZREM', P .. 'waiting:' .. ARGV[1], ARGV[2])
