-- Store the record of a file. Repeating it changes nothing. ARGV: JSON {file, limits, idem}; without limits its bytes are
-- not counted. Returns {quota_exceeded, limit}, {in_progress}, or {stored}.
local order = cjson.decode(ARGV[1])
local file = order.file
local key, bytes = P .. 'file:' .. file.id, tonumber(file.bytes)
if call('EXISTS', key) == 1 then return {'stored'} end
local passed = order.limits ~= cjson.null and exceeded(file.tenant, order.limits, 0, bytes)
if passed then return {'quota_exceeded', passed} end
if not bind(file.tenant, order.idem) then return {'in_progress'} end
if order.limits ~= cjson.null then charge(file.tenant, 'bytes', bytes) end
write(key, file)
call('ZADD', P .. 'files:' .. file.tenant, 0, file.id)
if tonumber(file.expires) > 0 then call('ZADD', P .. 'expiry', file.expires, file.id) end
return {'stored'}
