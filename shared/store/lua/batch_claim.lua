-- Claim the batch of a file that is due for work and has the earliest deadline. ARGV: lease (s).
-- Returns {record or {}, now}. `fence` of the record counts the claims: only the latest may change the batch.
local first, deadline
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'batches_due', '-inf', stamp(now), 'LIMIT', 0, 100)) do
  local b = read(P .. 'batch:' .. id, 'status', 'deadline')
  if b.status == '' or TERMINAL[b.status] then
    call('ZREM', P .. 'batches_due', id)
    call('HINCRBY', P .. 'repairs', 'batches', 1)
  elseif not first or tonumber(b.deadline) < deadline then
    first, deadline = id, tonumber(b.deadline)
  end
end
if not first then return {{}, stamp(now)} end
local key, lease_end = P .. 'batch:' .. first, stamp(now + tonumber(ARGV[1]))
call('HINCRBY', key, 'fence', 1)
call('HSET', key, 'held', lease_end)
call('HDEL', key, 'wake')
call('ZADD', P .. 'batches_due', lease_end, first)
return {call('HGETALL', key), stamp(now)}
