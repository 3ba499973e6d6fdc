-- ARGV: limit. Returns ids whose objects are to be deleted.
return call('ZRANGE', P .. 'trash', 0, tonumber(ARGV[1]) - 1)
