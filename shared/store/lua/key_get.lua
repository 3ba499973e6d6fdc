-- ARGV: hash of a key or ''. Returns {JSON or '', number of keys, now}.
return {ARGV[1] ~= '' and call('HGET', P .. 'keys', ARGV[1]) or '', call('HLEN', P .. 'keys'), stamp(now)}
