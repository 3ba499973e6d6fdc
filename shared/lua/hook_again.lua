-- Deliver an ended message once more, on a fresh schedule. ARGV: tenant, subject, message.
-- Returns its state before, or '' if there is none.
local key = P .. 'hook:' .. ARGV[3]
local h = read(key, 'tenant', 'subject', 'state', 'attempts', 'type')
if h.state == '' or h.tenant ~= ARGV[1] or h.subject ~= ARGV[2] then return '' end
call('HSET', key, 'state', 'pending', 'base', h.attempts)
call('HDEL', key, 'ended', 'next')
call('ZADD', P .. 'hooks', stamp(now), ARGV[3])
local kind = string.match(h.type, '^(%a+)')
if h.type ~= 'job.started' then call('HSET', P .. kind .. ':' .. h.subject, 'hook_state', 'pending') end
return h.state
