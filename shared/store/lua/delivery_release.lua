-- Return a claimed delivery without an attempt. ARGV: message, turn, delay (s), new URL and host or ''. Returns 1, or 0
-- (lease lost).
local key = P .. 'hook:' .. ARGV[1]
local h = read(key, 'turn', 'state', 'host', 'recorded')
if h.turn ~= ARGV[2] or h.state ~= 'pending' or h.recorded == ARGV[2] then return 0 end
call('HDEL', key, 'held')
call('ZREM', P .. 'host:' .. h.host .. ':busy', ARGV[1])
if ARGV[4] ~= '' then
  unschedule(ARGV[1], h.host)
  call('HSET', key, 'url', ARGV[4], 'host', ARGV[5])
  h.host = ARGV[5]
end
schedule(ARGV[1], h.host, now + tonumber(ARGV[3]))
return 1
