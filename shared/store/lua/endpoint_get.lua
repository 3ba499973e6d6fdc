-- ARGV: tenant ('' for tileq's own processes), id. Returns the record or {}; a secret whose overlap is over is forgotten.
local tenant = call('HGET', P .. 'endpoint:' .. ARGV[2], 'tenant')
if not tenant or (ARGV[1] ~= '' and tenant ~= ARGV[1]) then return {} end
local secrets = P .. 'endpoint_secret:' .. ARGV[2]
local ends = tonumber(call('HGET', secrets, 'previous_until') or '')
if ends and ends <= now then call('HDEL', secrets, 'previous', 'previous_until') end
return read_endpoint(ARGV[2])
