-- End a running job. ARGV: id, attempt, state, JSON fields, slot or '', seconds: where no other job is ready the slot waits for
-- one from now on. Repeating it after a lost answer changes nothing.
-- Returns {1 or 0 (lease lost), deliveries now due, 1 if another job of the model is ready, else 0, 1 if the slot waits from
-- now on, else 0}.
local j = job(ARGV[1])

-- What a claim would look at, so that a worker needs no claim to learn that nothing waits.
local function more()
  promote()
  if not fewer_ready(j.model, 1) then return 1, 0 end
  return 0, wait_for_job(j.model, ARGV[5], ARGV[6])
end

if j.attempt == ARGV[2] and j.state == ARGV[3] and not is_active(j.state) then return {1, {}, more()} end
if j.state ~= 'running' or j.attempt ~= ARGV[2] then return {0, {}, 1, 0} end
write(P .. 'job:' .. ARGV[1], cjson.decode(ARGV[4]))
return {1, close(ARGV[1], j, ARGV[3]), more()}
