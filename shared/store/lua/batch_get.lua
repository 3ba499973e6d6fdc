-- ARGV: tenant ('' for tileq's own processes), id, first, last. Returns {hash or {}, ids from first to last in order}.
local key = P .. 'batch:' .. ARGV[2]
local tenant = call('HGET', key, 'tenant')
if not tenant or (ARGV[1] ~= '' and tenant ~= ARGV[1]) then return {{}, {}} end
return {call('HGETALL', key), call('ZRANGE', key .. ':jobs', ARGV[3], ARGV[4])}
