-- What became of lines of a batch's file. ARGV: batch, then pairs of line and the id of its job.
-- Returns {record of the job or {}, why it became none or '', …}.
local found = {}
for i = 2, #ARGV, 2 do
  found[#found + 1] = call('HGETALL', P .. 'job:' .. ARGV[i + 1])
  found[#found + 1] = call('HGET', P .. 'batch:' .. ARGV[1] .. ':refused', ARGV[i]) or ''
end
return found
