-- Delete the records of jobs, batches and test deliveries past their retention. ARGV: limit. Returns their ids.
local ids = call('ZRANGEBYSCORE', P .. 'expiry', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  local kind = string.match(id, '^(%a+)_')
  if kind == 'msg' then
    drop_delivery(id)
    call('ZREM', P .. 'expiry', id)
  else
    if kind == 'batch' then call('ZREM', P .. 'batches:' .. read(P .. 'batch:' .. id, 'tenant').tenant, id) end
    remove(id, kind)
  end
end
return ids
