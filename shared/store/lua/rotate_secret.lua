-- ARGV: tenant, new secret, overlap (s), the configured secret or '', its SHA-256, it in plain, a
-- candidate. Both sign in the overlap.
local s = resolve_secrets(ARGV[1], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
call('HSET', P .. 'secret:' .. ARGV[1], 'current', ARGV[2], 'previous', s.current, 'previous_until', stamp(now + tonumber(ARGV[3])))
return stamp(now + tonumber(ARGV[3]))
