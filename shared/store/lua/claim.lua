-- Claim the fairest queued job of `model` for `worker`: by priority, then tenants in turn, then age.
-- ARGV: model, worker, lease. Returns {record or {}, deliveries now due}.
promote()
local due = {}
for priority = 0, 2 do
  local turns = P .. 'turns:' .. ARGV[1] .. ':' .. priority
  local tenant = call('ZRANGE', turns, 0, 0)[1]
  while tenant do
    local ready = P .. 'ready:' .. ARGV[1] .. ':' .. priority .. ':' .. tenant
    local id = call('ZRANGE', ready, 0, 0)[1]
    local j = id and job(id)
    if not id then
      call('ZREM', turns, tenant)
    elseif j.state ~= 'queued' then
      call('ZREM', ready, id)
      call('HINCRBY', P .. 'repairs', 'ready', 1)
    elseif j.started == '' and now > tonumber(j.start_by) then
      for _, msg in ipairs(close(id, j, 'expired', failure('not_started_in_time'))) do due[#due + 1] = msg end
    elseif j.started ~= '' and now > tonumber(j.run_by) then
      for _, msg in ipairs(close(id, j, 'failed', failure('timed_out'))) do due[#due + 1] = msg end
    else
      local key = P .. 'job:' .. id
      dequeue(id, j)
      if call('EXISTS', ready) == 1 then call('ZADD', turns, stamp(now), tenant) end
      call('HINCRBY', key, 'attempt', 1)
      if j.started == '' then
        j.run_by = now + tonumber(j.run_within)
        call('HSET', key, 'started', stamp(now), 'run_by', stamp(j.run_by))
      end
      call('HSET', key, 'owner', ARGV[2], 'claimed', stamp(now))
      call('HDEL', key, 'hints', 'stage', 'not_before')
      call('ZREM', P .. 'outbox', id)
      call('ZADD', P .. 'leases', stamp(now + tonumber(ARGV[3])), id)
      -- The worker stops the attempt at run_by; 5 s later the reconciler ends a job whose worker hangs.
      call('ZADD', P .. 'deadlines', stamp(tonumber(j.run_by) + 5), id)
      move(id, j, 'running')
      due[#due + 1] = create_delivery(id, 'job', j.tenant, j.webhook, 'started')
      return {call('HGETALL', key), due}
    end
    tenant = call('ZRANGE', turns, 0, 0)[1]
  end
end
return {{}, due}
