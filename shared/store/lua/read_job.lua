-- ARGV: tenant ('' for tileq's own processes), id. Returns {record or {}, jobs ahead of it or -1}.
local key = P .. 'job:' .. ARGV[2]
local j = job(ARGV[2])
if j.state == '' or (ARGV[1] ~= '' and j.tenant ~= ARGV[1]) then return {{}, -1} end
return {call('HGETALL', key), j.state == 'queued' and position(ARGV[2], j) or -1}
