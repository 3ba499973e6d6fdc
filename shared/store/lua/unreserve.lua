-- Free the Idempotency-Key of a request that was refused. ARGV: tenant, key, token.
local key = P .. 'idem:' .. ARGV[1] .. ':' .. ARGV[2]
local r = read(key, 'token', 'subject')
if r.token == ARGV[3] and r.subject == '' then return call('DEL', key) end
return 0
