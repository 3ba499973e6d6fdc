-- One page of a tenant's jobs, newest first. ARGV: tenant, state, batch, after, limit, JSON {metadata}, scan limit.
-- Returns {{record, …}, cursor or ''}.
local index = P .. 'jobs:' .. ARGV[1]
if ARGV[3] ~= '' then
  if read(P .. 'batch:' .. ARGV[3], 'tenant').tenant ~= ARGV[1] then return {{}, ''} end
elseif ARGV[2] ~= '' then
  index = index .. ':' .. ARGV[2]
end
local wanted, limit, page, looked, last = cjson.decode(ARGV[6]), tonumber(ARGV[5]), {}, 0, ARGV[4]
local function fits(record)
  if ARGV[2] ~= '' and record.state ~= ARGV[2] then return false end
  if ARGV[3] ~= '' and record.batch ~= ARGV[3] then return false end
  if next(wanted) == nil then return true end
  local metadata = record.metadata ~= '' and cjson.decode(record.metadata) or {}
  for name, value in pairs(wanted) do if metadata[name] ~= value then return false end end
  return true
end
while looked < tonumber(ARGV[7]) do
  local ids = call('ZREVRANGEBYLEX', index, last == '' and '+' or '(' .. last, '-', 'LIMIT', 0, 200)
  for _, id in ipairs(ids) do
    last, looked = id, looked + 1
    if fits(read(P .. 'job:' .. id, 'state', 'batch', 'metadata')) then
      page[#page + 1] = call('HGETALL', P .. 'job:' .. id)
      if #page == limit then
        local more = call('ZREVRANGEBYLEX', index, '(' .. last, '-', 'LIMIT', 0, 1)
        return {page, #more > 0 and last or ''}
      end
    end
  end
  if #ids < 200 then return {page, ''} end
end
return {page, last}
