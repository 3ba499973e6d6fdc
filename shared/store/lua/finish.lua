-- End a running job. ARGV: id, attempt, state, JSON fields. Repeating it after a lost answer changes nothing.
-- Returns {1 or 0 (lease lost), deliveries now due}.
local j = job(ARGV[1])
if j.attempt == ARGV[2] and j.state == ARGV[3] and not is_active(j.state) then return {1, {}} end
if j.state ~= 'running' or j.attempt ~= ARGV[2] then return {0, {}} end
write(P .. 'job:' .. ARGV[1], cjson.decode(ARGV[4]))
return {1, close(ARGV[1], j, ARGV[3])}
