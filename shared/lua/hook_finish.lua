-- Write one delivery attempt down. ARGV: message, turn, outcome (delivered, failed, again), delay (s), JSON of the
-- attempt, 1 if the host answered as it should, failures in a row that pause a host. Repeating it after a lost answer
-- changes nothing. Returns 1, or 0 (stale).
local key = P .. 'hook:' .. ARGV[1]
local h = read(key, 'turn', 'state', 'host', 'subject', 'type', 'recorded')
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
elseif tonumber(call('GET', name .. ':open') or 0) <= now then -- who set out before the pause has nothing new to say
  local row = call('INCR', name .. ':fails')
  call('EXPIRE', name .. ':fails', 3600)
  if row >= tonumber(ARGV[7]) then
    call('SET', name .. ':open', stamp(now + math.min(60, 5 * 2 ^ (row - tonumber(ARGV[7])))), 'EX', 3600)
  end
end
local state = 'pending'
if ARGV[3] == 'again' then
  call('HSET', key, 'next', stamp(now + tonumber(ARGV[4])))
  await(ARGV[1], h.host, now + tonumber(ARGV[4]))
else
  state = ARGV[3]
  call('HSET', key, 'state', state, 'ended', stamp(now))
  call('HDEL', key, 'next')
  wait_no_more(ARGV[1], h.host)
end
local kind = string.match(h.type, '^(%a+)')
local subject = P .. kind .. ':' .. h.subject
-- The end is what a job's webhook is about; word of the start speaks for it only while there is no other.
local speaks = h.type ~= 'job.started' or call('LLEN', subject .. ':hooks') == 1
if kind ~= 'webhook' and speaks and call('EXISTS', subject) == 1 then
  call('HSET', subject, 'hook_state', state, 'hook_attempts', attempts)
end
call('PUBLISH', P .. 'changes', ARGV[1])
return 1
