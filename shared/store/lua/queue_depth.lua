-- ARGV: tenant. Returns {queued jobs of the tenant, queued jobs of all tenants}.
return {call('ZCARD', P .. 'jobs:' .. ARGV[1] .. ':queued'), tonumber(call('HGET', P .. 'counts', 'queued') or 0)}
