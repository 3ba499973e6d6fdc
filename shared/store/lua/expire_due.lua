-- End the jobs that passed start_within or run_within. ARGV: limit. Returns {{id, state, …}, deliveries now due}.
local moved, due = {}, {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])) do
  local j = job(id)
  if not is_active(j.state) then
    call('ZREM', P .. 'deadlines', id)
    call('HINCRBY', P .. 'repairs', 'deadlines', 1)
  else
    local messages
    if j.cancel ~= '' then
      messages = close(id, j, 'cancelled')
    elseif j.started == '' then
      messages = close(id, j, 'expired', failure('not_started_in_time'))
    else
      messages = close(id, j, 'failed', failure('timed_out'))
    end
    append(due, messages)
    moved[#moved + 1] = id
    moved[#moved + 1] = j.state
  end
end
return {moved, due}
