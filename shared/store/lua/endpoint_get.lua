-- ARGV: tenant ('' for tileq's own processes), id. Returns the record or {}; a secret whose overlap is over is forgotten.
local key = P .. 'endpoint:' .. ARGV[2]
local e = read(key, 'tenant', 'previous_until')
if e.tenant == '' or (ARGV[1] ~= '' and e.tenant ~= ARGV[1]) then return {} end
if e.previous_until ~= '' and tonumber(e.previous_until) <= now then call('HDEL', key, 'previous', 'previous_until') end
return call('HGETALL', key)
