-- ARGV: tenant, id to continue after or '', limit. Returns {records, newest first, 1 if more follow}.
local ids = call('ZREVRANGE', P .. 'endpoints:' .. ARGV[1], 0, -1)
local first = 1
for i, id in ipairs(ids) do
  if id == ARGV[2] then first = i + 1 end
end
local records, last = {}, math.min(#ids, first + tonumber(ARGV[3]) - 1)
for i = first, last do records[#records + 1] = read_endpoint(ids[i]) end
return {records, last < #ids and 1 or 0}
