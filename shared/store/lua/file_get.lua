-- ARGV: tenant ('' for tileq's own processes), id. Returns the record, empty where there is none or it has expired.
local key = P .. 'file:' .. ARGV[2]
local f = read(key, 'tenant', 'expires')
if f.tenant == '' or (ARGV[1] ~= '' and f.tenant ~= ARGV[1]) then return {} end
if tonumber(f.expires) > 0 and tonumber(f.expires) <= now then return {} end
return call('HGETALL', key)
