-- ARGV: tenant, id. Returns 1 if there was such a file, else 0.
if read(P .. 'file:' .. ARGV[2], 'tenant').tenant ~= ARGV[1] then return 0 end
remove(ARGV[2], 'file')
return 1
