-- Cancel a job. ARGV: tenant, id. A queued job ends at once; the worker of a running one sees it at its next heartbeat.
-- Returns {outcome or '' (not found), deliveries now due}.
local j = job(ARGV[2])
if j.state == '' or j.tenant ~= ARGV[1] then return {'', {}} end
if not is_active(j.state) then return {'already_ended', {}} end
if j.state == 'queued' then return {'cancelled', close(ARGV[2], j, 'cancelled')} end
call('HSET', P .. 'job:' .. ARGV[2], 'cancel', '1')
call('PUBLISH', P .. 'changes', ARGV[2])
return {'cancelling', {}}
