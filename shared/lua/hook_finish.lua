-- Write one delivery attempt down. ARGV: message, turn, outcome (delivered, failed, again), delay (s), JSON of the
-- attempt, 1 if the host answered as it should, failures in a row that open the breaker. Returns 1, or 0 (stale).
local key = P .. 'hook:' .. ARGV[1]
local h = read(key, 'turn', 'state', 'host', 'subject', 'type')
if h.turn ~= ARGV[2] or h.state ~= 'pending' then return 0 end
local attempts = call('HINCRBY', key, 'attempts', 1)
call('RPUSH', key .. ':log', ARGV[5])
call('ZREM', P .. 'host:' .. h.host .. ':busy', ARGV[1])
local fails = P .. 'host:' .. h.host .. ':fails'
if ARGV[6] == '1' then
  call('DEL', fails, P .. 'host:' .. h.host .. ':open')
else
  local row = call('INCR', fails)
  call('EXPIRE', fails, 3600)
  if row >= tonumber(ARGV[7]) then
    local pause = math.min(60, 5 * 2 ^ (row - tonumber(ARGV[7])))
    call('SET', P .. 'host:' .. h.host .. ':open', stamp(now + pause), 'EX', 120)
  end
end
local state = 'pending'
if ARGV[3] == 'again' then
  call('HSET', key, 'next', stamp(now + tonumber(ARGV[4])))
  call('ZADD', P .. 'hooks', stamp(now + tonumber(ARGV[4])), ARGV[1])
else
  state = ARGV[3]
  call('HSET', key, 'state', state, 'ended', stamp(now))
  call('HDEL', key, 'next')
  call('ZREM', P .. 'hooks', ARGV[1])
end
local kind = string.match(h.type, '^(%a+)')
local subject = P .. kind .. ':' .. h.subject
if kind ~= 'webhook' and h.type ~= 'job.started' and call('EXISTS', subject) == 1 then
  call('HSET', subject, 'hook_state', state, 'hook_attempts', attempts)
end
call('PUBLISH', P .. 'changes', ARGV[1])
return 1
