-- Claim the fairest queued job of `model` for `worker`: by priority, then tenants in turn, then age. Among the oldest
-- `window` jobs of the tenant whose turn it is, one that shares a cached prompt of the worker goes first (affinity).
-- ARGV: model, worker, lease, window, max passes, max seconds since the first pass, number of ready jobs that are many, slot
-- or '' and seconds: where no job is ready the slot waits for one from now on, 1 if it waited until now, or 0: then it waits
-- again only if it was woken; then for each prompt that the worker has cached 'tenant/key', or '/key' for any tenant.
-- Returns {record or {}, deliveries now due, 1 if many jobs are still ready, else 0, 1 if the slot waits from now on, else 0}.
local slot = ARGV[8]
if ARGV[10] == '1' and not stop_waiting(ARGV[1], slot) then slot = '' end
promote()
local cached -- set of the prompts, made once there is a choice

local function shares(tenant, affinity)
  if not cached then
    cached = {}
    for i = 11, #ARGV do cached[ARGV[i]] = true end
  end
  for key in string.gmatch(affinity, '%S+') do
    if cached[tenant .. '/' .. key] or cached['/' .. key] then return true end
  end
  return false
end

-- The next job of a tenant, and the older ones that it overtakes. A job that was passed over often enough, or for the first
-- time long enough ago, is overtaken no more, so at most `max passes` younger jobs ever go before one.
local function choose(ready, tenant)
  local ids = call('ZRANGE', ready, 0, ARGV[11] and tonumber(ARGV[4]) - 1 or 0)
  if not ids[2] then return ids[1], {} end
  local passed = {}
  for i, id in ipairs(ids) do
    local j = read(P .. 'job:' .. id, 'affinity', 'passes', 'passed')
    if shares(tenant, j.affinity) then return id, passed end
    if (tonumber(j.passes) or 0) >= tonumber(ARGV[5]) then break end
    if j.passed ~= '' and now - tonumber(j.passed) > tonumber(ARGV[6]) then break end
    passed[i] = id
  end
  return ids[1], {}
end

local due = {}
for priority = 0, 2 do
  local turns = P .. 'turns:' .. ARGV[1] .. ':' .. priority
  local tenant = call('ZRANGE', turns, 0, 0)[1]
  while tenant do
    local ready = P .. 'ready:' .. ARGV[1] .. ':' .. priority .. ':' .. tenant
    local id, passed = choose(ready, tenant)
    local j = id and job(id)
    if not id then
      call('ZREM', turns, tenant)
    elseif j.state ~= 'queued' then
      call('ZREM', ready, id)
      call('HINCRBY', P .. 'repairs', 'ready', 1)
    elseif j.started == '' and now > tonumber(j.start_by) then
      append(due, close(id, j, 'expired', failure('not_started_in_time')))
    elseif j.started ~= '' and now > tonumber(j.run_by) then
      append(due, close(id, j, 'failed', failure('timed_out')))
    else
      local key = P .. 'job:' .. id
      for _, older in ipairs(passed) do
        call('HINCRBY', P .. 'job:' .. older, 'passes', 1)
        call('HSETNX', P .. 'job:' .. older, 'passed', stamp(now))
      end
      dequeue(id, j)
      if call('EXISTS', ready) == 1 then call('ZADD', turns, stamp(now), tenant) end
      call('HINCRBY', key, 'attempt', 1)
      if j.started == '' then
        j.run_by = now + tonumber(j.run_within)
        call('HSET', key, 'started', stamp(now), 'run_by', stamp(j.run_by))
      end
      call('HSET', key, 'owner', ARGV[2], 'claimed', stamp(now))
      call('HDEL', key, 'hints', 'stage', 'waits', 'not_before', 'passes', 'passed')
      call('ZREM', P .. 'outbox', id)
      call('ZADD', P .. 'leases', stamp(now + tonumber(ARGV[3])), id)
      -- The worker stops the attempt at run_by; 5 s later the reconciler ends a job whose worker hangs.
      call('ZADD', P .. 'deadlines', stamp(tonumber(j.run_by) + 5), id)
      move(id, j, 'running')
      append(due, create_job_deliveries(id, j, 'started'))
      return {call('HGETALL', key), due, fewer_ready(ARGV[1], tonumber(ARGV[7])) and 0 or 1, 0}
    end
    tenant = call('ZRANGE', turns, 0, 0)[1]
  end
end
return {{}, due, 0, wait_for_job(ARGV[1], slot, ARGV[9])}
