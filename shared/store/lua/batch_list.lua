-- A page of a tenant's batches, newest first. ARGV: tenant, after ('' for the newest), limit.
-- Returns {{record, …}, 1 if more follow, else 0}.
local index, page = P .. 'batches:' .. ARGV[1], {}
local from = ARGV[2] == '' and '+' or '(' .. ARGV[2]
local ids = call('ZREVRANGEBYLEX', index, from, '-', 'LIMIT', 0, tonumber(ARGV[3]) + 1)
for i = 1, math.min(#ids, tonumber(ARGV[3])) do page[i] = call('HGETALL', P .. 'batch:' .. ids[i]) end
return {page, #ids > #page and 1 or 0}
