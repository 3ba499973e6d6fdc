-- Statistics of the store: {{model, card, live workers, ready jobs, …}, jobs per state, transitions per state, repairs,
-- {outbox, leases, hooks, trash, unarchived, batches of files that have not ended, age of the oldest due hint, expired lease,
-- due delivery, end outside of a group, batch that is due}}.
local models, seen = {}, {}
local function ready(model)
  local n = 0
  for priority = 0, 2 do
    for _, tenant in ipairs(call('ZRANGE', P .. 'turns:' .. model .. ':' .. priority, 0, -1)) do
      n = n + call('ZCARD', P .. 'ready:' .. model .. ':' .. priority .. ':' .. tenant)
    end
  end
  return n
end
local function add(model, card)
  if seen[model] then return end
  seen[model] = true
  for _, value in ipairs({model, card, call('ZCOUNT', P .. 'workers:' .. model, stamp(now), '+inf'), ready(model)}) do
    models[#models + 1] = value
  end
end
local cards = call('HGETALL', P .. 'models')
for i = 1, #cards, 2 do add(cards[i], cards[i + 1]) end
for _, model in ipairs(call('SMEMBERS', P .. 'queues')) do add(model, '') end
local function age(set)
  local first = call('ZRANGE', P .. set, 0, 0, 'WITHSCORES')
  return first[2] and stamp(math.max(0, now - tonumber(first[2]))) or '0'
end
return {models, call('HGETALL', P .. 'counts'), call('HGETALL', P .. 'moves'), call('HGETALL', P .. 'repairs'), {
  call('ZCARD', P .. 'outbox'), call('ZCARD', P .. 'leases'), call('ZCARD', P .. 'hooks'), call('ZCARD', P .. 'trash'),
  call('ZCARD', P .. 'unarchived'), call('ZCARD', P .. 'batches_due'),
  age('outbox'), age('leases'), age('hooks'), age('unarchived'), age('batches_due')}}
