-- Queue the jobs again whose lease expired; on the last attempt fail them. ARGV: backoff (s), jitter (factor), limit.
-- Returns {{id, state, owner, …}, deliveries now due}.
local moved, due = {}, {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'leases', '-inf', stamp(now), 'LIMIT', 0, ARGV[3])) do
  local j = job(id)
  if j.state ~= 'running' then
    call('ZREM', P .. 'leases', id)
    call('HINCRBY', P .. 'repairs', 'leases', 1)
  else
    local key = P .. 'job:' .. id
    call('HINCRBY', P .. 'repairs', 'lost', 1)
    -- An attempt that waited to run alone has done nothing: it is not charged, but for a job that is lost again and again.
    if call('HINCRBY', key, 'lost', 1) <= 3 * tonumber(j.max_attempts) and call('HGET', key, 'waits') == '1' then
      j.released = call('HINCRBY', key, 'released', 1)
    end
    local messages
    if j.cancel == '' and charged(j) >= tonumber(j.max_attempts) then
      messages = close(id, j, 'failed', failure('worker_lost', j.max_attempts))
    else
      messages = requeue(id, j, tonumber(ARGV[1]) * 2 ^ math.max(0, charged(j) - 1) * tonumber(ARGV[2]))
    end
    append(due, messages)
    moved[#moved + 1] = id
    moved[#moved + 1] = j.state
    moved[#moved + 1] = j.owner
  end
end
return {moved, due}
