-- Returns {hash, JSON, …} of all keys.
return call('HGETALL', P .. 'keys')
