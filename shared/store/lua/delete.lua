-- ARGV: tenant, id. Returns deleted, not_ended or not_found.
local j = job(ARGV[2])
if j.state == '' or j.tenant ~= ARGV[1] then return 'not_found' end
if is_active(j.state) then return 'not_ended' end
remove(ARGV[2], 'job')
return 'deleted'
