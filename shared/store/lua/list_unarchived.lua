-- Ended jobs whose end is in no group object yet. ARGV: number of fields, the fields, then the ids asked for; or '',
-- archiver, seconds, limit: the oldest, unless another archiver took some less than that many seconds ago.
-- Returns {id, values of the fields, …}.
local fields = {unpack(ARGV, 2, ARGV[1] + 1)}
local asked, ids = {unpack(ARGV, ARGV[1] + 2)}, {}
if asked[1] ~= '' then
  for _, id in ipairs(asked) do
    if call('ZSCORE', P .. 'unarchived', id) then ids[#ids + 1] = id end
  end
else
  local holder = call('GET', P .. 'archiver')
  if holder and holder ~= asked[2] then return {} end
  ids = call('ZRANGE', P .. 'unarchived', 0, asked[4] - 1)
  if ids[1] then call('SET', P .. 'archiver', asked[2], 'EX', asked[3]) end
end
local found = {}
for _, id in ipairs(ids) do
  found[#found + 1] = id
  local values = call('HMGET', P .. 'job:' .. id, unpack(fields))
  for i = 1, #fields do found[#found + 1] = values[i] or '' end
end
return found
