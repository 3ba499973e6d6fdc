-- ARGV: tenant, override as JSON, '' to remove it.
if ARGV[2] == '' then return call('HDEL', P .. 'limits', ARGV[1]) end
return call('HSET', P .. 'limits', ARGV[1], ARGV[2])
