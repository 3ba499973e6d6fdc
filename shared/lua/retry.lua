-- A held job met a passing trouble. ARGV: id, attempt, JSON error, backoff (s), jitter (factor).
-- Returns {state it is in now or '' (stale), messages now due}.
local j = held(ARGV[1], ARGV[2])
if not j then return {'', {}} end
call('HINCRBY', P .. 'repairs', 'retried', 1)
local due
if j.cancel == '' and charged(j) >= tonumber(j.max_attempts) then
  due = close(ARGV[1], j, 'failed', ARGV[3])
else
  due = requeue(ARGV[1], j, tonumber(ARGV[4]) * 2 ^ (charged(j) - 1) * tonumber(ARGV[5]))
end
return {j.state, due}
