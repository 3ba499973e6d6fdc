-- ARGV: tenant ('' for our own processes), id. Returns {record or {}, jobs in front of it or -1}.
local key = P .. 'job:' .. ARGV[2]
local j = job(ARGV[2])
if j.state == '' or (ARGV[1] ~= '' and j.tenant ~= ARGV[1]) then return {{}, -1} end
local position = -1
if j.state == 'queued' then
  local turns = P .. 'turns:' .. j.model .. ':' .. j.priority
  local rank = call('ZRANK', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. j.tenant, ARGV[2])
  position = rank or 0
  for priority = 0, tonumber(j.priority) - 1 do
    for _, tenant in ipairs(call('ZRANGE', P .. 'turns:' .. j.model .. ':' .. priority, 0, -1)) do
      position = position + call('ZCARD', P .. 'ready:' .. j.model .. ':' .. priority .. ':' .. tenant)
    end
  end
  -- Tenants are served in turn: before my job of rank r every other one is served r times, and once more if its turn is first.
  local first = true
  for _, tenant in ipairs(call('ZRANGE', turns, 0, -1)) do
    if tenant == j.tenant then
      first = false
    else
      local waiting = call('ZCARD', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. tenant)
      position = position + math.min(waiting, (rank or 0) + (first and 1 or 0))
    end
  end
end
return {call('HGETALL', key), position}
