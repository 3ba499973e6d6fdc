-- ARGV: tenant, id. Queued jobs end at once, running ones learn it from their worker's next look.
-- Returns {outcome or '' (not found), messages now due}.
local j = job(ARGV[2])
if j.state == '' or j.tenant ~= ARGV[1] then return {'', {}} end
if not is_open(j.state) then return {'already_ended', {}} end
if j.state == 'queued' then return {'cancelled', close(ARGV[2], j, 'cancelled')} end
call('HSET', P .. 'job:' .. ARGV[2], 'cancel', '1')
call('PUBLISH', P .. 'changes', ARGV[2])
return {'cancelling', {}}
