-- Create a webhook endpoint, or restore one whose record was lost. ARGV: JSON record, most endpoints of the tenant (0: restore,
-- by a user that may not read secrets). Returns {'created' or 'exists', record, but not when restoring}, {'too_many'}, or
-- {'deleted'} for one that is not to be restored.
local e, most = cjson.decode(ARGV[1]), tonumber(ARGV[2])
local id, index, restores = e.id, P .. 'endpoints:' .. e.tenant, most == 0
if call('EXISTS', P .. 'endpoint:' .. id) == 1 then return {'exists', not restores and read_endpoint(id) or {}} end
if restores and call('ZSCORE', P .. 'trash', id) then return {'deleted', {}} end
if not restores and call('ZCARD', index) >= most then return {'too_many', {}} end
e.created = e.created or stamp(now)
e.updated = e.updated or e.created
call('ZADD', index, e.created, id)
call('ZREM', P .. 'trash', id)
write_endpoint(id, e)
return {'created', not restores and read_endpoint(id) or {}}
