-- ARGV: kind, id. Returns the messages of a job or batch.
return call('LRANGE', P .. ARGV[1] .. ':' .. ARGV[2] .. ':hooks', 0, -1)
