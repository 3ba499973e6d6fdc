-- Cancel a batch of a file. ARGV: tenant, id. Returns cancelling, unchanged (it ends or has ended) or '' (not found).
local key = P .. 'batch:' .. ARGV[2]
local b = read(key, 'tenant', 'status')
if b.tenant ~= ARGV[1] or b.status == '' then return '' end
if b.status ~= 'validating' and b.status ~= 'in_progress' then return 'unchanged' end
call('HSET', key, 'status', 'cancelling', 'cancelling_at', stamp(now), 'outcome', 'cancelled')
wake_batch(ARGV[2])
return 'cancelling'
