-- Change a webhook endpoint. ARGV: tenant, id, JSON fields; of a rotation the overlap (s), else '', and what names the request or
-- ''. A rotation whose answer was lost is not made twice. Returns the record or {}.
local key = P .. 'endpoint:' .. ARGV[2]
local e = read(key, 'tenant', 'secret', 'rotated_by')
if e.tenant == '' or e.tenant ~= ARGV[1] then return {} end
local fields = cjson.decode(ARGV[3])
if ARGV[4] ~= '' then
  if ARGV[5] ~= '' and e.rotated_by == ARGV[5] then return call('HGETALL', key) end
  call('HDEL', key, 'previous', 'previous_until')
  if tonumber(ARGV[4]) > 0 then
    fields.previous, fields.previous_until = e.secret, stamp(now + tonumber(ARGV[4]))
  end
  fields.rotated_by = ARGV[5]
end
fields.updated = stamp(now)
write(key, fields)
call('HINCRBY', key, 'revision', 1)
return call('HGETALL', key)
