-- Record that the markers of these ids are written. ARGV: ids. A job deleted meanwhile has its objects deleted again.
for _, id in ipairs(ARGV) do
  call('ZREM', P .. 'unmarked', id)
  if call('EXISTS', P .. 'job:' .. id) == 1 then
    call('HSET', P .. 'job:' .. id, 'marked', '1')
  else
    call('ZADD', P .. 'trash', stamp(now), id)
  end
end
return #ARGV
