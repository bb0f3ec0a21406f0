-- Lets jobs that are parked under a key run, the oldest first.
-- ARGV: key, how many at most.
-- Answers how many.
-- O(log n) a job; n jobs are parked under the key.
local ids = call('ZRANGE', B .. 'k:' .. ARGV[1], 0, ARGV[2] - 1)
for _, id in ipairs(ids) do
  local state = call('HGET', B .. 's', id)
  local s = state and read_status(state)
  if s and has(s.flags, PARKED) then
    leave_key(id, s)
    s.changed = now
    wait_no_more(id, s)
    to_head(id, s)
    keep(id, s)
  else
    call('ZREM', B .. 'k:' .. ARGV[1], id)
  end
end
flush()
return #ids
