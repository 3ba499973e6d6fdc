-- The webhook secrets of a tenant, newest first; the first caller's candidate becomes it. ARGV: tenant, candidate.
local key = P .. 'secret:' .. ARGV[1]
call('HSETNX', key, 'current', ARGV[2])
local s = read(key, 'current', 'previous', 'previous_until')
if s.previous ~= '' and tonumber(s.previous_until) > now then return {s.current, s.previous} end
return {s.current}
