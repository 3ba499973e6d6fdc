-- Record one delivery attempt. ARGV: message, turn, outcome (delivered, failed, again), delay (s), JSON of the
-- attempt, 1 if the host answered as it should, failures in a row that open the breaker. Repeating it after a lost answer
-- changes nothing. Returns 1, or 0 (lease lost).
local key = P .. 'hook:' .. ARGV[1]
local h = read(key, 'turn', 'state', 'host', 'subject', 'recorded', 'endpoint')
if h.turn == ARGV[2] and h.recorded == ARGV[2] then return 1 end
if h.turn ~= ARGV[2] or h.state ~= 'pending' then return 0 end
local attempts = call('HINCRBY', key, 'attempts', 1)
call('HSET', key, 'recorded', ARGV[2])
call('HDEL', key, 'held')
call('RPUSH', key .. ':log', ARGV[5])
local name = P .. 'host:' .. h.host
call('ZREM', name .. ':busy', ARGV[1])
if ARGV[6] == '1' then
  call('DEL', name .. ':fails', name .. ':open')
elseif tonumber(call('GET', name .. ':open') or 0) <= now then -- an attempt sent before the breaker opened counts no more
  local row = call('INCR', name .. ':fails')
  call('EXPIRE', name .. ':fails', 3600)
  if row >= tonumber(ARGV[7]) then
    call('SET', name .. ':open', stamp(now + math.min(60, 5 * 2 ^ (row - tonumber(ARGV[7])))), 'EX', 3600)
  end
end
local state = 'pending'
if ARGV[3] == 'again' then
  call('HSET', key, 'next', stamp(now + tonumber(ARGV[4])))
  schedule(ARGV[1], h.host, now + tonumber(ARGV[4]))
else
  state = ARGV[3]
  call('HSET', key, 'state', state, 'ended', stamp(now))
  call('HDEL', key, 'next')
  unschedule(ARGV[1], h.host)
end
local subject = P .. string.match(h.subject, '^(%a+)') .. ':' .. h.subject
if tells_state(ARGV[1], subject, h) then call('HSET', subject, 'hook_state', state, 'hook_attempts', attempts) end
call('PUBLISH', P .. 'changes', ARGV[1])
return 1
