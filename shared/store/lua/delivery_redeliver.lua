-- Deliver once more on a fresh schedule; a delivery in flight continues. ARGV: tenant, subject,
-- message. Returns its state before, or '' if there is none.
local key = P .. 'hook:' .. ARGV[3]
local h = read(key, 'tenant', 'subject', 'state', 'attempts', 'host', 'held', 'endpoint')
if h.state == '' or h.tenant ~= ARGV[1] or h.subject ~= ARGV[2] then return '' end
call('HSET', key, 'state', 'pending', 'base', h.attempts, 'since', stamp(now))
call('HDEL', key, 'ended', 'next')
if (tonumber(h.held) or 0) <= now then schedule(ARGV[3], h.host, now) end
local subject = P .. string.match(h.subject, '^(%a+)') .. ':' .. h.subject
if tells_state(ARGV[3], subject, h) then call('HSET', subject, 'hook_state', 'pending') end
return h.state
