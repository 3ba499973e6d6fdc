-- End a restored batch of which no job is active, although some of its jobs could not be restored. ARGV: id.
-- Returns the deliveries now due.
local first = call('ZRANGE', P .. 'batch:' .. ARGV[1] .. ':jobs', 0, 0)[1]
local retain = first and call('HGET', P .. 'job:' .. first, 'retain')
return retain and end_batch(ARGV[1], now + tonumber(retain), true) or {}
