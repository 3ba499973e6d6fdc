-- Renew the claim of a batch of a file. ARGV: id, fence, status, lease (s). Returns 1, or 0 (lease lost, or another status).
if not holds_batch(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local lease_end = stamp(now + tonumber(ARGV[4]))
call('HSET', P .. 'batch:' .. ARGV[1], 'held', lease_end)
call('ZADD', P .. 'batches_due', lease_end, ARGV[1])
return 1
