-- ARGV: hash of the key, JSON of what is known of it.
return call('HSET', P .. 'keys', ARGV[1], ARGV[2])
