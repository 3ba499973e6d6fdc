-- The objects of these ids are gone. ARGV: ids.
return call('ZREM', P .. 'trash', unpack(ARGV))
