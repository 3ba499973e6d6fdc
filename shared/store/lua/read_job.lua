-- ARGV: tenant ('' for tileq's own processes), id. Returns {record or {}, jobs ahead of it or -1}.
local key = P .. 'job:' .. ARGV[2]
local r = read(key, 'state', 'tenant')
if r.state == '' or (ARGV[1] ~= '' and r.tenant ~= ARGV[1]) then return {{}, -1} end
return {call('HGETALL', key), r.state == 'queued' and position(ARGV[2], job(ARGV[2])) or -1}
