-- Accept all the jobs of ARGV[1] (JSON), or none. Repeating it with the same ids changes nothing.
-- Returns {overloaded, seconds until there is room}, {quota_exceeded, limit}, {in_progress}, or {accepted, now, jobs ahead of a
-- single one or -1, for each job 1 if a hint of it is to be published}.
-- With `lines` they are lines of a batch's file, some of them refused: the batch then stands behind them in its file, or,
-- where another process works on it or it was cancelled, nothing is done and {lease_lost} returned.
local order = cjson.decode(ARGV[1])
local lines = order.lines ~= cjson.null and order.lines
if lines and not holds_batch(lines.batch, lines.fence, 'in_progress') then return {'lease_lost'} end
if order.jobs[1] and call('EXISTS', P .. 'job:' .. order.jobs[1].id) == 0 then -- else it was accepted, and the answer lost
  local excess = (tonumber(call('HGET', P .. 'counts', 'queued')) or 0) + #order.jobs - order.max_queued
  if excess > 0 then return {'overloaded', stamp(drain_seconds(excess))} end
  local passed = order.limits ~= cjson.null and exceeded(order.tenant, order.limits, #order.jobs, order.bytes)
  if passed then return {'quota_exceeded', passed} end
end
if not bind(order.tenant, order.idem) then return {'in_progress'} end
if order.batch ~= cjson.null then
  order.batch.created = stamp(now)
  put_batch(order.batch)
end

-- Whether the next job of a model needs a hint. Where a slot waits for a job it needs none: the slot is woken. Where many are
-- ready it needs none: as many hints as are many jobs lead every free slot to the queue, each slot claims until it is empty,
-- and one that follows a hint or was woken passes it on while many wait.
-- Hints may have been lost, so that one is published every `hint_period` even so.
local function needs_hint(model)
  if wake(model) then return 0 end
  if fewer_ready(model, order.many_ready) then return 1 end
  if now - tonumber(call('HGET', P .. 'hinted', model) or 0) < order.hint_period then return 0 end
  call('HSET', P .. 'hinted', model, stamp(now))
  return 1
end

local hinted = {}
for i, record in ipairs(order.jobs) do
  hinted[i] = 1 -- a job that exists: the answer was lost, and the hint with it
  local key = P .. 'job:' .. record.id
  if call('EXISTS', key) == 0 then
    local start_by = now + tonumber(record.start_within)
    record.state = nil
    record.created = stamp(now + (i - 1) / 1000000) -- the jobs of a batch are served in its order
    record.start_by = stamp(start_by)
    record.expires = stamp(now + tonumber(record.retain))
    write(key, record)
    hinted[i] = needs_hint(record.model)
    if record.batch then call('ZADD', P .. 'batch:' .. record.batch .. ':jobs', lines and 0 or i, record.id) end
    local j = job(record.id)
    charge(order.tenant, 'bytes', order.job_bytes[i])
    enqueue(record.id, j)
    call('ZADD', P .. 'outbox', stamp(now + order.grace), record.id)
    call('ZADD', P .. 'deadlines', stamp(start_by), record.id)
    move(record.id, j, 'queued')
  end
end
if lines then
  local key = P .. 'batch:' .. lines.batch
  call('HSET', key, 'offset', lines.offset, 'line', lines.line)
  for line, why in pairs(lines.refused) do
    call('HINCRBY', key, 'refused', call('HSET', key .. ':refused', line, why))
  end
end
local only = #order.jobs == 1 and job(order.jobs[1].id)
return {'accepted', stamp(now), only and only.state == 'queued' and position(order.jobs[1].id, only) or -1, hinted}
