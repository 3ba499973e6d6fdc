-- The webhook secrets of a tenant, newest first. ARGV: tenant, the configured secret or '', its SHA-256, it in
-- plain, a candidate.
local s = resolve_secrets(ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
if s.previous ~= '' and tonumber(s.previous_until) > now then return {s.current, s.previous} end
return {s.current}
