-- Register a worker of a model for some seconds. ARGV: model, worker, JSON card, seconds (0: deregister).
local alive = P .. 'workers:' .. ARGV[1]
if tonumber(ARGV[4]) == 0 then return call('ZREM', alive, ARGV[2]) end
call('HSET', P .. 'models', ARGV[1], ARGV[3])
call('ZADD', alive, stamp(now + tonumber(ARGV[4])), ARGV[2])
return call('ZREMRANGEBYSCORE', alive, '-inf', stamp(now))
