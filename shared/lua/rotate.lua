-- ARGV: tenant, new secret, overlap (s), what the deployment configures or '', a candidate. Both sign in the overlap.
local s = settle(ARGV[1], ARGV[4], ARGV[5])
call('HSET', P .. 'secret:' .. ARGV[1], 'current', ARGV[2], 'previous', s.current, 'previous_until', stamp(now + tonumber(ARGV[3])))
return stamp(now + tonumber(ARGV[3]))
