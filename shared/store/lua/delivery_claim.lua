-- Claim a due delivery whose host may be called now: hosts in turn, the oldest delivery of each.
-- ARGV: message of the hint or '', lease (s), limit per host. A hint chooses nothing, except that a test is claimed first
-- and through an open breaker, because a user waits for its outcome. Deliveries to a host whose breaker is open wait
-- and lose no attempt. Returns the delivery's hash or {}.
local function closed_until(host, test)
  local name = P .. 'host:' .. host
  local open = tonumber(call('GET', name .. ':open') or 0)
  if open > now and not test then return open end
  call('ZREMRANGEBYSCORE', name .. ':busy', '-inf', stamp(now))
  local most = (open > 0 and not test) and 1 or tonumber(ARGV[3]) -- half open: one probe
  if call('ZCARD', name .. ':busy') < most then return nil end
  return tonumber(call('ZRANGE', name .. ':busy', 0, 0, 'WITHSCORES')[2])
end

local function take(msg, host)
  local ends = now + tonumber(ARGV[2])
  call('HINCRBY', P .. 'hook:' .. msg, 'turn', 1)
  call('HSET', P .. 'hook:' .. msg, 'claimed', stamp(now), 'held', stamp(ends))
  call('ZADD', P .. 'host:' .. host .. ':busy', stamp(ends), msg)
  call('EXPIRE', P .. 'host:' .. host .. ':busy', 3600)
  schedule(msg, host, ends)
  reindex_host(host, now) -- behind the hosts that wait already
  return call('HGETALL', P .. 'hook:' .. msg)
end

local due = ARGV[1] ~= '' and tonumber(call('ZSCORE', P .. 'hooks', ARGV[1]) or now + 1)
if due and due <= now then
  local h = read(P .. 'hook:' .. ARGV[1], 'state', 'host', 'once')
  if h.once ~= '' and h.state == 'pending' and not closed_until(h.host, true) then return take(ARGV[1], h.host) end
end
for _, host in ipairs(call('ZRANGEBYSCORE', P .. 'hosts', '-inf', stamp(now), 'LIMIT', 0, 1000)) do
  local later = closed_until(host)
  if later then
    call('ZADD', P .. 'hosts', stamp(later), host)
  else
    for _, msg in ipairs(call('ZRANGEBYSCORE', P .. 'line:' .. host, '-inf', stamp(now), 'LIMIT', 0, 100)) do
      if call('HGET', P .. 'hook:' .. msg, 'state') == 'pending' then return take(msg, host) end
      unschedule(msg, host)
      call('HINCRBY', P .. 'repairs', 'hooks', 1)
    end
    reindex_host(host)
  end
end
return {}
