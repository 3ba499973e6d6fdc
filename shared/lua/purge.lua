-- Ended jobs, batches and test messages past their retention. ARGV: how many. Returns their ids.
local ids = call('ZRANGEBYSCORE', P .. 'expiry', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  local kind = string.match(id, '^(%a+)_')
  if kind == 'msg' then
    forget(id)
    call('ZREM', P .. 'expiry', id)
  else
    if kind == 'batch' then call('ZREM', P .. 'batches:' .. read(P .. 'batch:' .. id, 'tenant').tenant, id) end
    remove(id, kind)
  end
end
return ids
