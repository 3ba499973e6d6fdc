-- Heartbeat of one worker for all its attempts: renew leases (ARGV[1] seconds; 0 renews nothing) and store progress.
-- ARGV[2]: JSON [[id, attempt, {progress}], …]. Returns ok, cancel, deadline_exceeded or lease_lost for each.
local verdicts = {}
for i, entry in ipairs(cjson.decode(ARGV[2])) do
  local id, j = entry[1], claimed_job(entry[1], tostring(entry[2]))
  if not j then
    verdicts[i] = 'lease_lost'
  else
    local key, late = P .. 'job:' .. id, now > tonumber(j.run_by)
    if tonumber(ARGV[1]) > 0 and not late then call('ZADD', P .. 'leases', 'XX', stamp(now + tonumber(ARGV[1])), id) end
    local stage = call('HGET', key, 'stage')
    write(key, entry[3])
    if entry[3].stage and entry[3].stage ~= stage then call('PUBLISH', P .. 'changes', id) end
    verdicts[i] = (j.cancel ~= '' and 'cancel') or (late and 'deadline_exceeded') or 'ok'
  end
end
return verdicts
