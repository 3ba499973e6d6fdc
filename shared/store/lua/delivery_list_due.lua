-- List due deliveries of hosts that may be called, the longest waiting hosts first. ARGV: limit.
local due = {}
for _, host in ipairs(call('ZRANGEBYSCORE', P .. 'hosts', '-inf', stamp(now), 'LIMIT', 0, ARGV[1])) do
  local left = tonumber(ARGV[1]) - #due
  if left == 0 then break end
  if tonumber(call('GET', P .. 'host:' .. host .. ':open') or 0) <= now then
    for _, msg in ipairs(call('ZRANGEBYSCORE', P .. 'line:' .. host, '-inf', stamp(now), 'LIMIT', 0, left)) do
      due[#due + 1] = msg
    end
  end
end
return due
