-- Prepended to every script. KEYS[1] is the prefix of all keys; the scripts build every other key name from it, so the
-- store is one Redis, not a Cluster. All times come from the server's clock, in seconds since the epoch.
--   job:{id}            hash, the record            outbox      ids of queued jobs by when to publish their hint next
--   leases              running ids by lease end    deadlines   active ids by when start_within or run_within ends
--   ready:{m}:{p}:{t}   queued ids by age           turns:{m}:{p} tenant rotation: tenants with ready jobs by last claim
--   delayed             queued ids by not_before    expiry      ended ids by when they are purged
--   jobs:{t}[:{state}]  ids in order of time        batch:{id}, batch:{id}:jobs   hash, ids
--   batches:{t}         ids in order of time        batches_due  batches of files by when to work on them next
--   batch:{id}:refused  line of the file → why it became no job, as JSON
--   hooks               deliveries by when due      hook:{msg}, hook:{msg}:log    hash, attempts as JSON
--   hosts               hosts by next due delivery  line:{host} deliveries queued for one host by when due
--   host:{host}:busy    deliveries in flight        host:{host}:fails, :open      failures in a row, breaker open until
--   endpoint:{id}       hash, a webhook endpoint    endpoints:{t}  ids of a tenant's by age
--   endpoint_secret:{id}  hash, what of an endpoint only intake and webhook dispatchers read: secrets and headers
--   idem:{t}:{key}      hash                        trash       ids whose objects are still to be deleted
--   file:{id}           hash, the record            files:{t}   ids of a tenant's files in order of time
--   limits              overrides by tenant         usage:{t}:{day}, rate:{t}   what a tenant has used, requests
--   drain               claims at two moments
--   secrets_keys        ids of the keys that encrypt stored secrets
--   unarchived          ids of ended jobs by their end, until it is in a group object (shared/ended.py)
--   archiver            which reconciler writes group objects, for some seconds
--   waiting:{m}         slots of workers that wait for a job, by when they stop
--   wake:{slot}         list, an entry for a slot that waited and is to claim
--   hinted              by model, when a submission last asked for a hint although many jobs waited
-- FAILURES, put in front by shared/store/client.py, maps the code of a failure to its message (shared/errors.py).
local P = KEYS[1]
local call = redis.call
local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function stamp(t) return string.format('%.6f', t) end

local function read(key, ...)
  local values, record = call('HMGET', key, ...), {}
  for i, name in ipairs({...}) do record[name] = values[i] or '' end
  return record
end

-- Set all `fields` of a hash in one call: 33 single ones a job took a fifth of the store's time.
local function write(key, fields)
  local flat = {}
  for name, value in pairs(fields) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  if flat[1] then call('HSET', key, unpack(flat)) end
end

-- A webhook endpoint is two hashes, since the users of workers and reconciler may read the first one alone.
local ENDPOINT_SECRETS = {'secret', 'previous', 'previous_until', 'headers'}

local function write_endpoint(id, fields)
  local secrets = {}
  for _, name in ipairs(ENDPOINT_SECRETS) do secrets[name], fields[name] = fields[name], nil end
  write(P .. 'endpoint:' .. id, fields)
  write(P .. 'endpoint_secret:' .. id, secrets)
end

local function read_endpoint(id)
  local record = call('HGETALL', P .. 'endpoint:' .. id)
  for _, value in ipairs(call('HGETALL', P .. 'endpoint_secret:' .. id)) do record[#record + 1] = value end
  return record
end

local function job(id)
  return read(P .. 'job:' .. id, 'state', 'tenant', 'model', 'priority', 'created', 'attempt', 'released', 'max_attempts',
    'start_by', 'started', 'run_within', 'run_by', 'retain', 'cancel', 'webhook', 'batch', 'owner', 'due')
end

local function is_active(state) return state == 'queued' or state == 'running' end

local function charged(j) return tonumber(j.attempt) - tonumber(j.released) end

-- The `error` of a job that ends for a reason that only the store knows; '%s' in the message is filled with `value`.
local function failure(code, value)
  local message = string.gsub(FAILURES[code], '%%s', value or '')
  return cjson.encode({code = code, message = message, retryable = true, image = cjson.null})
end

-- A line of a batch is ordered by its batch's deadline, and so stands behind every other job of its priority.
local function enqueue(id, j)
  local order = j.due ~= '' and j.due or j.created
  call('ZADD', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. j.tenant, order, id)
  call('ZADD', P .. 'turns:' .. j.model .. ':' .. j.priority, 'NX', stamp(now), j.tenant)
  call('SADD', P .. 'queues', j.model)
end

local function dequeue(id, j)
  local ready = P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. j.tenant
  call('ZREM', ready, id)
  call('ZREM', P .. 'delayed', id)
  if call('EXISTS', ready) == 0 then call('ZREM', P .. 'turns:' .. j.model .. ':' .. j.priority, j.tenant) end
end

local function promote()
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'delayed', '-inf', stamp(now), 'LIMIT', 0, 100)) do
    call('ZREM', P .. 'delayed', id)
    local j = job(id)
    if j.state == 'queued' then enqueue(id, j) end
  end
end

-- Whether fewer than `limit` jobs of a model are ready.
local function fewer_ready(model, limit)
  for priority = 0, 2 do
    for _, tenant in ipairs(call('ZRANGE', P .. 'turns:' .. model .. ':' .. priority, 0, limit - 1)) do
      limit = limit - call('ZCARD', P .. 'ready:' .. model .. ':' .. priority .. ':' .. tenant)
      if limit <= 0 then return false end
    end
  end
  return true
end

-- Let `slot`, unless it is '', wait for a job of `model` for some seconds, since none is ready: a submission wakes it.
-- Returns 1 if it waits, else 0.
local function wait_for_job(model, slot, seconds)
  if slot == '' or tonumber(seconds) <= 0 then return 0 end
  call('ZADD', P .. 'waiting:' .. model, stamp(now + tonumber(seconds)), slot)
  return 1
end

-- End the wait of a slot for a job of `model`; return whether it was woken meanwhile.
local function stop_waiting(model, slot)
  call('DEL', P .. 'wake:' .. slot)
  return call('ZREM', P .. 'waiting:' .. model, slot) == 0
end

-- Wake a slot that waits for a job of `model`, so that no hint is needed; return whether there was one. It waits no longer
-- from this moment on, so that no two jobs wake the same slot.
local function wake(model)
  local first = call('ZPOPMIN', P .. 'waiting:' .. model)
  while first[1] and tonumber(first[2]) <= now do first = call('ZPOPMIN', P .. 'waiting:' .. model) end
  if not first[1] then return false end
  call('RPUSH', P .. 'wake:' .. first[1], '1')
  call('EXPIRE', P .. 'wake:' .. first[1], 60)
  return true
end

-- Jobs that will be claimed before the queued job `id`, as things stand.
local function position(id, j)
  local turns = P .. 'turns:' .. j.model .. ':' .. j.priority
  local rank = call('ZRANK', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. j.tenant, id) or 0
  local before = rank
  for priority = 0, tonumber(j.priority) - 1 do
    for _, tenant in ipairs(call('ZRANGE', P .. 'turns:' .. j.model .. ':' .. priority, 0, -1)) do
      before = before + call('ZCARD', P .. 'ready:' .. j.model .. ':' .. priority .. ':' .. tenant)
    end
  end
  -- Tenants are served in turn: before a job of rank r every other one is served r times, and once more if its turn is first.
  local first = true
  for _, tenant in ipairs(call('ZRANGE', turns, 0, -1)) do
    if tenant == j.tenant then
      first = false
    else
      local waiting = call('ZCARD', P .. 'ready:' .. j.model .. ':' .. j.priority .. ':' .. tenant)
      before = before + math.min(waiting, rank + (first and 1 or 0))
    end
  end
  return before
end

-- Change the state of a job: record, indexes, counts, and the notification on the channel `changes`, which a new job needs not:
-- nobody knows its id yet. No other code does.
local function move(id, j, to)
  local index = P .. 'jobs:' .. j.tenant
  if j.state ~= '' then
    call('ZREM', index .. ':' .. j.state, id)
    call('HINCRBY', P .. 'counts', j.state, -1)
  else
    call('ZADD', index, 0, id)
  end
  call('ZADD', index .. ':' .. to, 0, id)
  call('HINCRBY', P .. 'counts', to, 1)
  call('HINCRBY', P .. 'moves', to, 1)
  if j.batch ~= '' then
    if j.state ~= '' then call('HINCRBY', P .. 'batch:' .. j.batch, j.state, -1) end
    call('HINCRBY', P .. 'batch:' .. j.batch, to, 1)
  end
  call('HSET', P .. 'job:' .. id, 'state', to)
  if j.state ~= '' then call('PUBLISH', P .. 'changes', id .. ' ' .. to) end
  j.state = to
end

-- Index `host` by its next due delivery, not before `from`. A claim then skips a dead host in one step, however many
-- deliveries wait for it.
local function reindex_host(host, from)
  local first = call('ZRANGE', P .. 'line:' .. host, 0, 0, 'WITHSCORES')
  if not first[1] then return call('ZREM', P .. 'hosts', host) end
  call('ZADD', P .. 'hosts', stamp(math.max(tonumber(first[2]), from or 0)), host)
end

-- Make a delivery due at `at`, in `hooks` and in the queue of its host.
local function schedule(msg, host, at)
  call('ZADD', P .. 'hooks', stamp(at), msg)
  call('ZADD', P .. 'line:' .. host, stamp(at), msg)
  reindex_host(host)
end

local function unschedule(msg, host)
  call('ZREM', P .. 'hooks', msg)
  call('ZREM', P .. 'line:' .. host, msg)
  reindex_host(host)
end

local function drop_delivery(msg)
  local host = call('HGET', P .. 'hook:' .. msg, 'host')
  call('DEL', P .. 'hook:' .. msg, P .. 'hook:' .. msg .. ':log')
  if host then unschedule(msg, host) else call('ZREM', P .. 'hooks', msg) end
end

-- Tell the dispatchers that a delivery is due; return whether one listens, so that no hint is needed. A notification that is
-- lost is made up for like a hint: when a dispatcher subscribes again, and by the reconciler. A user of the store may be
-- denied the channel, which must not fail a transition.
local function notify_dispatchers(msg)
  local listeners = redis.pcall('PUBLISH', P .. 'deliveries', msg)
  return type(listeners) == 'number' and listeners > 0
end

local function append(list, more)
  for _, value in ipairs(more) do list[#list + 1] = value end
end

-- Who may want to hear of a job or batch: its own webhook ('' for none), and the endpoints of its tenant.
local function subscribers(tenant, webhook)
  local found = {}
  if webhook ~= '' then found[1] = cjson.decode(webhook) end
  for _, id in ipairs(call('ZRANGE', P .. 'endpoints:' .. tenant, 0, -1)) do
    local e = read(P .. 'endpoint:' .. id, 'url', 'host', 'events', 'payload')
    found[#found + 1] = {endpoint = id, url = e.url, host = e.host, events = cjson.decode(e.events), payload = e.payload}
  end
  return found
end

-- The first of `types` that a subscriber wants, else nil.
local function wanted_type(to, types)
  for _, type in ipairs(types) do
    for _, name in ipairs(to.events) do
      if name == type then return type end
    end
  end
end

-- Create the delivery of an event to one subscriber, once; return its id where a hint of it is to be published, else nil.
-- That to an endpoint names it: the dispatcher reads its secrets and headers at every attempt.
local function create_delivery(subject, tenant, event, type, to)
  local kind, suffix = string.match(subject, '^(%a+)_(.*)')
  local msg = 'msg_' .. suffix .. '_' .. event .. (to.endpoint and '_' .. string.match(to.endpoint, '_(.*)') or '')
  local key = P .. 'hook:' .. msg
  if call('HSETNX', key, 'msg', msg) == 0 then return nil end
  local sequence = call('RPUSH', P .. kind .. ':' .. subject .. ':hooks', msg)
  call('HSET', key, 'subject', subject, 'tenant', tenant, 'type', type, 'url', to.url, 'host', to.host,
    'payload', to.payload, 'state', 'pending', 'attempts', 0, 'base', 0, 'turn', 0, 'created', stamp(now),
    'sequence', sequence)
  if to.headers and next(to.headers) then call('HSET', key, 'headers', cjson.encode(to.headers)) end
  if to.endpoint then
    call('HSET', key, 'endpoint', to.endpoint)
  else
    call('HSET', P .. kind .. ':' .. subject, 'hook_state', 'pending', 'hook', msg)
  end
  schedule(msg, to.host, now)
  if notify_dispatchers(msg) then return nil end
  return msg
end

local TERMINAL = {completed = true, failed = true, expired = true, cancelled = true} -- statuses of a batch of a file

-- Write the record of a batch, unless it is there. One of a file that has not ended is worked on at once.
local function put_batch(b)
  local key = P .. 'batch:' .. b.id
  if call('EXISTS', key) == 1 then return end
  write(key, b)
  call('ZADD', P .. 'batches:' .. b.tenant, 0, b.id)
  if b.status and TERMINAL[b.status] then
    call('ZADD', P .. 'expiry', b.expires, b.id)
  elseif b.status then
    call('ZADD', P .. 'batches_due', stamp(now), b.id)
  end
end

-- Let a batch of a file be worked on at once, or as soon as the process that works on it puts it back.
local function wake_batch(id)
  local held = tonumber(call('HGET', P .. 'batch:' .. id, 'held') or 0)
  if held > now then
    call('HSET', P .. 'batch:' .. id, 'wake', '1')
  else
    call('ZADD', P .. 'batches_due', 'XX', stamp(now), id)
  end
end

-- Whether the claim `fence` of a batch of a file is the latest one, and the batch has the status `status`.
local function holds_batch(id, fence, status)
  local b = read(P .. 'batch:' .. id, 'fence', 'status')
  return b.fence == tostring(fence) and b.status == status
end

-- Create one delivery for each of `to` that wants an event of `subject`. `types` are the names of the event, the preferred
-- one first; `endpoint_types` those for endpoints. Returns the ids of which hints are to be published.
local function deliver(subject, tenant, event, to, types, endpoint_types)
  local due = {}
  for _, subscriber in ipairs(to) do
    local type = wanted_type(subscriber, subscriber.endpoint and endpoint_types or types)
    if type then due[#due + 1] = create_delivery(subject, tenant, event, type, subscriber) end
  end
  return due
end

-- Create the deliveries of an event of a batch, `batch.{event}`, in the step that makes it true. ARGUMENTS: id, tenant,
-- its own webhook or '', event: `ended`; of OpenAI's batches `completed`, `failed`, `expired` or `cancelled`.
-- Returns the ids of which hints are to be published: the script returns them as its deliveries now due.
local function create_batch_deliveries(id, tenant, webhook, event)
  local types = {'batch.' .. event}
  return deliver(id, tenant, event, subscribers(tenant, webhook), types, types)
end

-- OpenAI's names of the ends of a response; one that was cut at its most tokens is `incomplete` instead.
local RESPONSE_EVENTS = {succeeded = 'completed', failed = 'failed', expired = 'failed', cancelled = 'cancelled'}

-- Create the deliveries of an event of a job. A response tells of its end by OpenAI's name, `response.…`, and by the native
-- one to who wants only that. As at OpenAI, endpoints hear `response.…` of those made in the background alone.
local function create_job_deliveries(id, j, event)
  local to = subscribers(j.tenant, j.webhook)
  if not to[1] then return {} end
  local native, r = {'job.' .. event}, read(P .. 'job:' .. id, 'openai', 'finish_reason')
  local made, name = r.openai ~= '' and cjson.decode(r.openai), RESPONSE_EVENTS[event]
  if not made or made.api ~= 'responses' or not name then return deliver(id, j.tenant, event, to, native, native) end
  if r.finish_reason == 'length' then name = 'incomplete' end
  local both = {'response.' .. name, native[1]}
  return deliver(id, j.tenant, event, to, both, made.background and both or native)
end

-- Whether the delivery `h` tells the state of the webhook of its job or batch: it is the latest to it. One to an endpoint does
-- not, and a test is about no job: its subject is the message itself.
local function tells_state(msg, subject, h)
  if h.endpoint ~= '' or h.subject == msg then return false end
  local r = read(subject, 'hook', 'webhook')
  if r.hook ~= '' then return r.hook == msg end
  return r.webhook ~= '' -- the delivery was created by an earlier version
end

-- End a batch of which no job is active, if all its jobs have ended; with `force` also if some are not known, because they
-- could not be restored. Returns the deliveries now due.
local function end_batch(id, expires, force)
  local key = P .. 'batch:' .. id
  local b = read(key, 'tenant', 'total', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired', 'ended', 'webhook',
    'status')
  local function sum(...)
    local n = 0
    for _, name in ipairs({...}) do n = n + (tonumber(b[name]) or 0) end
    return n
  end
  if b.ended ~= '' or sum('queued', 'running') > 0 then return {} end
  if b.status ~= '' then -- services/intake/batches ends it
    wake_batch(id)
    return {}
  end
  if not force and sum('succeeded', 'failed', 'cancelled', 'expired') < sum('total') then return {} end
  call('HSET', key, 'ended', stamp(now), 'expires', stamp(expires))
  call('ZADD', P .. 'expiry', stamp(expires), id)
  return create_batch_deliveries(id, b.tenant, b.webhook, 'ended')
end

local function usage_key(tenant) return P .. 'usage:' .. tenant .. ':' .. math.floor(now / 86400) end

-- Count what a tenant has used today (UTC).
local function charge(tenant, name, amount)
  if amount <= 0 then return end
  call('HINCRBY', usage_key(tenant), name, amount)
  call('EXPIRE', usage_key(tenant), 172800)
end

-- Estimate the seconds until workers have claimed `excess` jobs, by their claims since a sample 10 to 120 s ago: 1 to 60.
local function drain_seconds(excess)
  local claims = tonumber(call('HGET', P .. 'moves', 'running') or 0)
  local s = read(P .. 'drain', 'at', 'claims', 'since', 'from')
  local at = tonumber(s.at) or 0
  if now - at >= 10 then
    call('HSET', P .. 'drain', 'at', stamp(now), 'claims', claims, 'since', s.at, 'from', s.claims)
    s.since, s.from = s.at, s.claims
  end
  local since = tonumber(s.since) or 0
  if now - since > 120 then return 5 end
  local rate = (claims - tonumber(s.from)) / (now - since)
  return math.min(60, math.max(1, excess / math.max(rate, 0.001)))
end

-- The limit that `jobs` more jobs of a tenant with `bytes` of images would pass: {name, value, remaining, seconds}, or nil.
local function exceeded(tenant, limits, jobs, bytes)
  if limits.queued > 0 then
    local queued = call('ZCARD', P .. 'jobs:' .. tenant .. ':queued')
    local excess = queued + jobs - limits.queued
    if excess > 0 then return {'queued', limits.queued, limits.queued - queued, stamp(drain_seconds(excess))} end
  end
  if limits.bytes == 0 and limits.tokens == 0 then return nil end
  local used, left = read(usage_key(tenant), 'bytes', 'tokens'), stamp(86400 - now % 86400)
  local stored, tokens = tonumber(used.bytes) or 0, tonumber(used.tokens) or 0
  if limits.bytes > 0 and (stored + bytes > limits.bytes or stored >= limits.bytes) then
    return {'bytes', limits.bytes, limits.bytes - stored, left}
  end
  if limits.tokens > 0 and tokens >= limits.tokens then return {'tokens', limits.tokens, 0, left} end
  return nil
end

-- End a job: leave every queue, create its deliveries, count the batch. Returns the deliveries now due.
local function close(id, j, to, error)
  dequeue(id, j)
  for _, set in ipairs({'outbox', 'leases', 'deadlines'}) do call('ZREM', P .. set, id) end
  local expires = now + tonumber(j.retain)
  call('HSET', P .. 'job:' .. id, 'ended', stamp(now), 'expires', stamp(expires))
  if error then call('HSET', P .. 'job:' .. id, 'error', error) end
  call('HDEL', P .. 'job:' .. id, 'request', 'not_before', 'hints', 'affinity', 'passes', 'passed')
  call('ZADD', P .. 'expiry', stamp(expires), id)
  if j.started ~= '' then
    local r = read(P .. 'job:' .. id, 'usage', 'completion_tokens', 'fetched_bytes')
    local tokens = r.usage ~= '' and cjson.decode(r.usage).completion_tokens or tonumber(r.completion_tokens) or 0
    charge(j.tenant, 'tokens', tokens)
    charge(j.tenant, 'bytes', tonumber(r.fetched_bytes) or 0)
  end
  call('ZADD', P .. 'unarchived', stamp(now), id)
  move(id, j, to)
  local due = create_job_deliveries(id, j, to)
  if j.batch ~= '' then append(due, end_batch(j.batch, expires, false)) end
  return due
end

-- Queue a running job again after `delay`; end it if it was cancelled. Returns the deliveries now due.
local function requeue(id, j, delay)
  if j.cancel ~= '' then return close(id, j, 'cancelled') end
  call('ZREM', P .. 'leases', id)
  call('HDEL', P .. 'job:' .. id, 'owner', 'stage', 'completion_tokens')
  call('HSET', P .. 'job:' .. id, 'not_before', stamp(now + delay))
  call('ZADD', P .. 'outbox', stamp(now + delay), id)
  if delay > 0 then call('ZADD', P .. 'delayed', stamp(now + delay), id) else enqueue(id, j) end
  move(id, j, 'queued')
  return {}
end

-- Delete the record of a file, or of an ended job or batch, and its indexes. The reconciler deletes the objects of the ids in `trash`.
local function remove(id, kind)
  local key = P .. kind .. ':' .. id
  local r = read(key, 'tenant', 'state', 'batch', 'idem')
  for _, msg in ipairs(call('LRANGE', key .. ':hooks', 0, -1)) do drop_delivery(msg) end
  if kind == 'job' then
    call('ZREM', P .. 'jobs:' .. r.tenant, id)
    call('ZREM', P .. 'jobs:' .. r.tenant .. ':' .. r.state, id)
    call('HINCRBY', P .. 'counts', r.state, -1)
    if r.batch ~= '' then call('ZREM', P .. 'batch:' .. r.batch .. ':jobs', id) end
    call('ZREM', P .. 'unarchived', id)
    call('ZADD', P .. 'trash', stamp(now), id)
  elseif kind == 'file' then
    call('ZREM', P .. 'files:' .. r.tenant, id)
    call('ZADD', P .. 'trash', stamp(now), id)
  end
  if r.idem ~= '' then call('DEL', P .. 'idem:' .. r.tenant .. ':' .. r.idem) end
  call('ZREM', P .. 'expiry', id)
  call('DEL', key, key .. ':hooks', key .. ':jobs', key .. ':refused')
end

-- Bind an Idempotency-Key to what was made under it; return false where another request has reserved it meanwhile.
local function bind(tenant, idem)
  if idem == cjson.null then return true end
  local key = P .. 'idem:' .. tenant .. ':' .. idem.key
  local r = read(key, 'token', 'subject')
  if r.token ~= idem.token then return false end
  if r.subject == '' then
    call('HSET', key, 'subject', idem.subject)
    call('PERSIST', key)
  end
  return true
end

-- The running job `id` if `attempt` still holds it, else nil. This check is the fence against workers that lost their lease.
local function claimed_job(id, attempt)
  local j = job(id)
  if j.state == 'running' and j.attempt == attempt then return j end
  return nil
end

-- Resolve the webhook secrets of a tenant. A newly configured secret signs from now on, and the one before it for another
-- day; a tenant without any secret gets the candidate. Secrets come and stay encrypted, each time with another nonce, so
-- the configured one is known by its SHA-256 (earlier versions stored it in plain, and `plain` is compared for them).
local function resolve_secrets(tenant, configured, fingerprint, plain, candidate)
  local key = P .. 'secret:' .. tenant
  local s = read(key, 'current', 'configured')
  local known = s.configured == plain and fingerprint or s.configured
  if configured ~= '' and fingerprint ~= known then
    if s.current ~= '' then
      call('HSET', key, 'previous', s.current, 'previous_until', stamp(now + 86400))
    end
    call('HSET', key, 'current', configured, 'configured', fingerprint)
  elseif s.current == '' then
    call('HSET', key, 'current', candidate)
  elseif known ~= s.configured then
    call('HSET', key, 'configured', known)
  end
  return read(key, 'current', 'previous', 'previous_until')
end
