-- Count one request of a tenant. ARGV: tenant, requests in a minute or 0, JSON limits of submissions or ''.
-- Returns {1 or 0 (refused), {{limit, its value, remaining, seconds until there is room or all of it}, …}}.
-- Requests are counted by GCRA (ITU-T I.371): one key, bursts of a minute's requests, then evenly.
local states, rate = {}, tonumber(ARGV[2])
if rate > 0 then
  local key = P .. 'rate:' .. ARGV[1]
  local full = math.max(now, tonumber(call('GET', key) or 0)) + 60 / rate -- when all of the limit would be left again
  if full - now > 60.000001 then return {0, {{'requests', rate, 0, stamp(full - now - 60)}}} end
  call('SET', key, stamp(full), 'EX', 61)
  states[1] = {'requests', rate, math.floor((60 - (full - now)) * rate / 60 + 0.000001), stamp(full - now)}
end
if ARGV[3] ~= '' then
  local passed = exceeded(ARGV[1], cjson.decode(ARGV[3]), 1, 0)
  if passed then
    states[#states + 1] = passed
    return {0, states}
  end
end
return {1, states}
