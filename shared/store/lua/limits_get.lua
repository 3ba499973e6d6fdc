-- ARGV: tenant. Returns {override as JSON or '', queued jobs, bytes and tokens of today}.
local used = read(usage_key(ARGV[1]), 'bytes', 'tokens')
local override = call('HGET', P .. 'limits', ARGV[1]) or ''
return {override, call('ZCARD', P .. 'jobs:' .. ARGV[1] .. ':queued'), used.bytes, used.tokens}
