-- Reserve an Idempotency-Key while its first request is processed. ARGV: tenant, key, fingerprint, token, seconds.
-- Returns {outcome, id to replay or '', milliseconds that another's reservation lasts or 0}.
local key = P .. 'idem:' .. ARGV[1] .. ':' .. ARGV[2]
local r = read(key, 'fingerprint', 'token', 'subject')
if r.fingerprint == '' then
  call('HSET', key, 'fingerprint', ARGV[3], 'token', ARGV[4])
  call('EXPIRE', key, ARGV[5])
  return {'reserved', '', 0}
end
if r.fingerprint ~= ARGV[3] then return {'mismatch', '', 0} end
if r.subject ~= '' then return {'replay', r.subject, 0} end
if r.token == ARGV[4] then return {'reserved', '', 0} end
return {'in_progress', '', call('PTTL', key)}
