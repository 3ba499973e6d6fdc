-- List the queued jobs whose hint is due again. The next hint follows after ARGV[1] seconds, doubling to 60. ARGV[2]: limit.
-- Returns {id, model, …}.
promote()
local due = {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'outbox', '-inf', stamp(now), 'LIMIT', 0, ARGV[2])) do
  local j = job(id)
  if j.state ~= 'queued' then
    call('ZREM', P .. 'outbox', id)
    call('HINCRBY', P .. 'repairs', 'outbox', 1)
  else
    local hints = call('HINCRBY', P .. 'job:' .. id, 'hints', 1)
    call('ZADD', P .. 'outbox', stamp(now + math.min(60, tonumber(ARGV[1]) * 2 ^ (hints - 1))), id)
    if not call('ZSCORE', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. j.tenant, id) and
      not call('ZSCORE', P .. 'delayed', id) then
      enqueue(id, j)
      call('HINCRBY', P .. 'repairs', 'unqueued', 1)
    end
    due[#due + 1] = id
    due[#due + 1] = j.model
  end
end
return due
