-- Return a claimed delivery without an attempt. ARGV: message, turn, delay (s). Returns 1, or 0 (lease lost).
local key = P .. 'hook:' .. ARGV[1]
local h = read(key, 'turn', 'state', 'host', 'recorded')
if h.turn ~= ARGV[2] or h.state ~= 'pending' or h.recorded == ARGV[2] then return 0 end
call('HDEL', key, 'held')
call('ZREM', P .. 'host:' .. h.host .. ':busy', ARGV[1])
schedule(ARGV[1], h.host, now + tonumber(ARGV[3]))
return 1
