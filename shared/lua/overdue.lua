-- Jobs past start_within or run_within. ARGV: how many. Returns {{id, state, …}, messages now due}.
local moved, due = {}, {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])) do
  local j = job(id)
  if not is_open(j.state) then
    call('ZREM', P .. 'deadlines', id)
    call('HINCRBY', P .. 'repairs', 'deadlines', 1)
  else
    local messages
    if j.cancel ~= '' then
      messages = close(id, j, 'cancelled')
    elseif j.started == '' then
      messages = close(id, j, 'expired', failure('not_started_in_time',
        'no worker started the job within start_within; submit it again or allow more time', true))
    else
      messages = close(id, j, 'failed', failure('timed_out',
        'the job did not end within run_within, all attempts together; allow more time', true))
    end
    for _, msg in ipairs(messages) do due[#due + 1] = msg end
    moved[#moved + 1] = id
    moved[#moved + 1] = j.state
  end
end
return {moved, due}
