-- Record that the objects of these ids are deleted. ARGV: ids.
return call('ZREM', P .. 'trash', unpack(ARGV))
