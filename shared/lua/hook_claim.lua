-- Give a courier a due message whose host may be called now. ARGV: message to prefer or '', lease, most at once per host.
-- Hosts that fail again and again are left alone for a while; their messages wait and lose no attempt.
-- Returns the message's hash or {}.
local due = call('ZRANGEBYSCORE', P .. 'hooks', '-inf', stamp(now), 'LIMIT', 0, 100)
local score = ARGV[1] ~= '' and call('ZSCORE', P .. 'hooks', ARGV[1])
if score and tonumber(score) <= now then table.insert(due, 1, ARGV[1]) end
for _, msg in ipairs(due) do
  local h = read(P .. 'hook:' .. msg, 'state', 'host')
  if h.state ~= 'pending' then
    call('ZREM', P .. 'hooks', msg)
    call('HINCRBY', P .. 'repairs', 'hooks', 1)
  else
    local busy, open = P .. 'host:' .. h.host .. ':busy', tonumber(call('GET', P .. 'host:' .. h.host .. ':open') or 0)
    call('ZREMRANGEBYSCORE', busy, '-inf', stamp(now))
    if open > now then
      call('ZADD', P .. 'hooks', stamp(open), msg)
      call('HINCRBY', P .. 'repairs', 'breaker', 1)
    elseif call('ZCARD', busy) >= tonumber(ARGV[3]) then
      call('ZADD', P .. 'hooks', stamp(now + 0.2), msg)
      call('HINCRBY', P .. 'repairs', 'host_full', 1)
    else
      call('HINCRBY', P .. 'hook:' .. msg, 'turn', 1)
      call('ZADD', P .. 'hooks', stamp(now + tonumber(ARGV[2])), msg)
      call('ZADD', busy, stamp(now + tonumber(ARGV[2])), msg)
      call('EXPIRE', busy, 3600)
      return call('HGETALL', P .. 'hook:' .. msg)
    end
  end
end
return {}
