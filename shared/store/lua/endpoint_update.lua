-- Change a webhook endpoint. ARGV: tenant, id, JSON fields; of a rotation the overlap (s), else '', and what names the request or
-- ''. A rotation whose answer was lost is not made twice. Returns the record or {}.
local key, secrets = P .. 'endpoint:' .. ARGV[2], P .. 'endpoint_secret:' .. ARGV[2]
local e = read(key, 'tenant', 'rotated_by')
if e.tenant == '' or e.tenant ~= ARGV[1] then return {} end
local fields = cjson.decode(ARGV[3])
if call('HEXISTS', key, 'secret') == 1 then -- stored before secrets had a key of their own
  write_endpoint(ARGV[2], read(key, unpack(ENDPOINT_SECRETS)))
  call('HDEL', key, unpack(ENDPOINT_SECRETS))
end
if ARGV[4] ~= '' then
  if ARGV[5] ~= '' and e.rotated_by == ARGV[5] then return read_endpoint(ARGV[2]) end
  local secret = call('HGET', secrets, 'secret')
  call('HDEL', secrets, 'previous', 'previous_until')
  if tonumber(ARGV[4]) > 0 then
    fields.previous, fields.previous_until = secret, stamp(now + tonumber(ARGV[4]))
  end
  fields.rotated_by = ARGV[5]
end
fields.updated = stamp(now)
write_endpoint(ARGV[2], fields)
call('HINCRBY', key, 'revision', 1)
return read_endpoint(ARGV[2])
