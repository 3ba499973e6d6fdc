-- Put a claimed batch of a file back for `delay` seconds, or for none if it was woken meanwhile. ARGV: id, fence, delay.
-- Returns 1 or 0 (lease lost).
local key = P .. 'batch:' .. ARGV[1]
local b = read(key, 'fence', 'status', 'wake')
if b.fence ~= ARGV[2] or b.status == '' or TERMINAL[b.status] then return 0 end
call('HDEL', key, 'held', 'wake')
call('ZADD', P .. 'batches_due', stamp(b.wake ~= '' and now or now + tonumber(ARGV[3])), ARGV[1])
return 1
