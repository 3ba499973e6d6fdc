-- Retry a running job after a transient error, or fail it on the last attempt. ARGV: id, attempt, JSON error, backoff (s), jitter (factor).
-- Returns {state it is in now or '' (lease lost), deliveries now due}.
local j = claimed_job(ARGV[1], ARGV[2])
if not j then return {'', {}} end
call('HINCRBY', P .. 'repairs', 'retried', 1)
local due
if j.cancel == '' and charged(j) >= tonumber(j.max_attempts) then
  due = close(ARGV[1], j, 'failed', ARGV[3])
else
  due = requeue(ARGV[1], j, tonumber(ARGV[4]) * 2 ^ (charged(j) - 1) * tonumber(ARGV[5]))
end
return {j.state, due}
