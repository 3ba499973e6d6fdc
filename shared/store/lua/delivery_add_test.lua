-- Create the delivery of a test, attempted once. ARGV: message, tenant, type, url, host, JSON headers, retention (s),
-- endpoint or ''.
local key = P .. 'hook:' .. ARGV[1]
call('HSET', key, 'msg', ARGV[1], 'subject', ARGV[1], 'tenant', ARGV[2], 'type', ARGV[3], 'url', ARGV[4], 'host', ARGV[5],
  'headers', ARGV[6], 'payload', 'full', 'state', 'pending', 'attempts', 0, 'base', 0, 'turn', 0, 'once', '1', 'created', stamp(now),
  'endpoint', ARGV[8])
schedule(ARGV[1], ARGV[5], now)
call('ZADD', P .. 'expiry', stamp(now + tonumber(ARGV[7])), ARGV[1])
return 1
