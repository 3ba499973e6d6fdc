-- Accept a batch of a file, or restore one whose record was lost. ARGV: JSON {batch, idem}. Repeating it changes nothing.
-- Returns 1, or 0 where another request holds the Idempotency-Key.
local order = cjson.decode(ARGV[1])
if not bind(order.batch.tenant, order.idem) then return 0 end
put_batch(order.batch)
return 1
