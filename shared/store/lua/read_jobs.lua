-- ARGV: ids. Returns their records, {} where there is none.
local records = {}
for i, id in ipairs(ARGV) do records[i] = call('HGETALL', P .. 'job:' .. id) end
return records
