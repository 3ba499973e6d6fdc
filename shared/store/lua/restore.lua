-- Restore a job whose record was lost. ARGV: JSON record, state (queued or a terminal one), grace (s), JSON batch or ''.
-- Returns {1 or 0 (the record exists), deliveries now due}.
local record = cjson.decode(ARGV[1])
local key = P .. 'job:' .. record.id
if call('EXISTS', key) == 1 then return {0, {}} end
if ARGV[4] ~= '' then put_batch(cjson.decode(ARGV[4])) end
local start_by = now + tonumber(record.start_within)
record.state = nil
record.start_by = stamp(start_by)
record.expires = stamp(now + tonumber(record.retain))
write(key, record)
if record.batch then call('ZADD', P .. 'batch:' .. record.batch .. ':jobs', record.due and 0 or record.created, record.id) end
call('HINCRBY', P .. 'repairs', 'restored', 1)
local j = job(record.id)
if ARGV[2] == 'queued' then
  enqueue(record.id, j)
  call('ZADD', P .. 'outbox', stamp(now + tonumber(ARGV[3])), record.id)
  call('ZADD', P .. 'deadlines', stamp(start_by), record.id)
  move(record.id, j, 'queued')
  return {1, {}}
end
move(record.id, j, 'running')
j.started = '' -- its tokens were charged on the day on which it ended
local due = close(record.id, j, ARGV[2])
if record.ended then call('HSET', key, 'ended', record.ended) end
return {1, due}
