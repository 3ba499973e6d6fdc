-- Give a claimed batch of a file another status. ARGV: id, fence, status, new status, JSON fields, retention (s).
-- Returns {1 or 0 (lease lost, or another status), deliveries now due}. A batch becomes terminal nowhere else.
local id, to = ARGV[1], ARGV[4]
if not holds_batch(id, ARGV[2], ARGV[3]) then return {0, {}} end
local key = P .. 'batch:' .. id
write(key, cjson.decode(ARGV[5]))
call('HSET', key, 'status', to, to .. '_at', stamp(now))
if not TERMINAL[to] then return {1, {}} end
local expires = now + tonumber(ARGV[6])
call('HSET', key, 'ended', stamp(now), 'expires', stamp(expires))
call('HDEL', key, 'held', 'wake')
call('DEL', key .. ':refused')
call('ZREM', P .. 'batches_due', id)
call('ZADD', P .. 'expiry', stamp(expires), id)
local b = read(key, 'tenant', 'webhook')
return {1, create_batch_deliveries(id, b.tenant, b.webhook, to)}
