-- Extend the reservation of an Idempotency-Key whose request is still processed. ARGV: tenant, key, token, seconds.
local key = P .. 'idem:' .. ARGV[1] .. ':' .. ARGV[2]
local r = read(key, 'token', 'subject')
if r.token == ARGV[3] and r.subject == '' then return call('EXPIRE', key, ARGV[4]) end
return 0
