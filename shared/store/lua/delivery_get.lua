-- ARGV: messages. Returns {hash, attempts as JSON} for each.
local hooks = {}
for i, msg in ipairs(ARGV) do
  hooks[i] = {call('HGETALL', P .. 'hook:' .. msg), call('LRANGE', P .. 'hook:' .. msg .. ':log', 0, -1)}
end
return hooks
