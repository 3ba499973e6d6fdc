-- Ended jobs without a result whose marker (ended.json) is not written yet, oldest first. ARGV: limit, then ids or none
-- for any job. Returns {id, state, error, ended, attempt, …}.
local ids = {}
if ARGV[2] then
  for i = 2, #ARGV do
    if call('ZSCORE', P .. 'unmarked', ARGV[i]) then ids[#ids + 1] = ARGV[i] end
  end
else
  ids = call('ZRANGE', P .. 'unmarked', 0, tonumber(ARGV[1]) - 1)
end
local found = {}
for _, id in ipairs(ids) do
  local j = read(P .. 'job:' .. id, 'state', 'error', 'ended', 'attempt')
  for _, value in ipairs({id, j.state, j.error, j.ended, j.attempt}) do found[#found + 1] = value end
end
return found
