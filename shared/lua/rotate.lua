-- ARGV: tenant, new secret, overlap (s), candidate for a tenant that had none. Both sign during the overlap.
local key = P .. 'secret:' .. ARGV[1]
local current = call('HGET', key, 'current') or ARGV[4]
call('HSET', key, 'current', ARGV[2], 'previous', current, 'previous_until', stamp(now + tonumber(ARGV[3])))
return stamp(now + tonumber(ARGV[3]))
