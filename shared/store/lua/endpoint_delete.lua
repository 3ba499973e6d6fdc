-- ARGV: tenant, id. Its object is deleted like a job's; messages to it that wait end at their next attempt. Returns 1 or 0.
local key = P .. 'endpoint:' .. ARGV[2]
if call('HGET', key, 'tenant') ~= ARGV[1] then return 0 end
call('DEL', key, P .. 'endpoint_secret:' .. ARGV[2])
call('ZREM', P .. 'endpoints:' .. ARGV[1], ARGV[2])
call('ZADD', P .. 'trash', stamp(now), ARGV[2])
return 1
