-- Write one key, as every transition does, so that a server which takes no writes is found out. ARGV: seconds it stays.
call('SET', P .. 'health:probe', '1', 'EX', ARGV[1])
return 1
