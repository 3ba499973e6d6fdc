-- Create a webhook endpoint, or restore one whose record was lost. ARGV: JSON record, most endpoints of the tenant (0: restore).
-- Returns {'created' or 'exists', record}, {'too_many', {}}, or {'deleted', {}} for one that is not to be restored.
local e, most = cjson.decode(ARGV[1]), tonumber(ARGV[2])
local key, index = P .. 'endpoint:' .. e.id, P .. 'endpoints:' .. e.tenant
if call('EXISTS', key) == 1 then return {'exists', call('HGETALL', key)} end
if most == 0 and call('ZSCORE', P .. 'trash', e.id) then return {'deleted', {}} end
if most > 0 and call('ZCARD', index) >= most then return {'too_many', {}} end
e.created = e.created or stamp(now)
e.updated = e.updated or e.created
write(key, e)
call('ZADD', index, e.created, e.id)
call('ZREM', P .. 'trash', e.id)
return {'created', call('HGETALL', key)}
