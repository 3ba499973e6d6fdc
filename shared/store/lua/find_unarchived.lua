-- Add the jobs to the index that a former release ended without a marker or result object. ARGV: offset and number of ended
-- ids to read. Returns how many were read.
local ids = call('ZRANGE', P .. 'expiry', ARGV[1], ARGV[1] + ARGV[2] - 1)
for _, id in ipairs(ids) do
  local j = read(P .. 'job:' .. id, 'state', 'marked', 'ended', 'seal')
  if j.seal == '' and j.marked == '' and (j.state == 'failed' or j.state == 'cancelled' or j.state == 'expired') then
    call('ZADD', P .. 'unarchived', j.ended, id)
  end
end
return #ids
