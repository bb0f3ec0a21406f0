-- Forgets dead jobs.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: ids.
-- Answers how many.
-- O(log n) each; n jobs are dead.
local forgotten = 0
for _, id in ipairs(ARGV) do
  local state = call('HGET', B .. 's', id)
  local s = state and read_status(state)
  if s and s.state == DEAD then
    call('ZREM', B .. 'd', id)
    forget(id, s, true)
    forgotten = forgotten + 1
  end
end
flush()
return forgotten
