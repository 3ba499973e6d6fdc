-- Reserve an Idempotency-Key while its first request is processed. ARGV: tenant, key, fingerprint, token, seconds.
local key = P .. 'idem:' .. ARGV[1] .. ':' .. ARGV[2]
local r = read(key, 'fingerprint', 'token', 'subject')
if r.fingerprint == '' then
  call('HSET', key, 'fingerprint', ARGV[3], 'token', ARGV[4])
  call('EXPIRE', key, ARGV[5])
  return {'reserved', ''}
end
if r.fingerprint ~= ARGV[3] then return {'mismatch', ''} end
if r.subject ~= '' then return {'replay', r.subject} end
if r.token == ARGV[4] then return {'reserved', ''} end
return {'in_progress', ''}
