-- The ids of the keys that stored secrets are encrypted with. ARGV: 'use' or 'retire', ids of a process's keys, the one that
-- encrypts first. 'use' adds the first and returns the ids in use that are not listed; 'retire' leaves only the first.
local key = P .. 'secrets_keys'
local known, others = {}, {}
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, id in ipairs(call('SMEMBERS', key)) do
  if not known[id] or ARGV[1] == 'retire' then others[#others + 1] = id end
end
if ARGV[1] == 'retire' then call('DEL', key) end
if ARGV[2] then call('SADD', key, ARGV[2]) end
return others
