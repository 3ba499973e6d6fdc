-- Record that the ends of these jobs are in a group object. ARGV: ids.
return call('ZREM', P .. 'unarchived', unpack(ARGV))
