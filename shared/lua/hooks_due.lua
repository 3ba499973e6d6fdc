-- ARGV: how many. Returns the messages that are due.
return call('ZRANGEBYSCORE', P .. 'hooks', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])
