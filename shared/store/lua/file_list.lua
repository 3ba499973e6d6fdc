-- One page of a tenant's files. ARGV: tenant, purpose or '', after or '', limit, 'asc' or 'desc'.
-- Returns {{record, …}, 1 where there are more or 0}.
local index, last, limit, page = P .. 'files:' .. ARGV[1], ARGV[3], tonumber(ARGV[4]), {}
while true do
  local ids
  if ARGV[5] == 'asc' then
    ids = call('ZRANGEBYLEX', index, last == '' and '-' or '(' .. last, '+', 'LIMIT', 0, 200)
  else
    ids = call('ZREVRANGEBYLEX', index, last == '' and '+' or '(' .. last, '-', 'LIMIT', 0, 200)
  end
  for _, id in ipairs(ids) do
    last = id
    local f = read(P .. 'file:' .. id, 'purpose', 'expires')
    local live = f.purpose ~= '' and (tonumber(f.expires) == 0 or tonumber(f.expires) > now)
    if live and (ARGV[2] == '' or f.purpose == ARGV[2]) then
      if #page == limit then return {page, 1} end
      page[#page + 1] = call('HGETALL', P .. 'file:' .. id)
    end
  end
  if #ids < 200 then return {page, 0} end
end
