-- Replace the field of a hash unless it was changed meanwhile. ARGV: key without prefix, field, old value, new value.
local key = P .. ARGV[1]
if call('HGET', key, ARGV[2]) ~= ARGV[3] then return 0 end
call('HSET', key, ARGV[2], ARGV[4])
return 1
