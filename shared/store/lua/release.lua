-- Release a running job that its worker can't go on with; the attempt is not charged. ARGV: id, attempt, delay (s).
-- Returns {1 or 0 (lease lost), deliveries now due}.
local j = claimed_job(ARGV[1], ARGV[2])
if not j then return {0, {}} end
call('HINCRBY', P .. 'job:' .. ARGV[1], 'released', 1)
call('HINCRBY', P .. 'repairs', 'released', 1)
return {1, requeue(ARGV[1], j, tonumber(ARGV[3]))}
