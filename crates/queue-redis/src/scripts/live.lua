-- Which of these stand in line: what was cancelled or forgotten since it lined up does so no longer.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: ids.
-- Answers how many.
-- O(1) each.
local live = 0
for _, id in ipairs(ARGV) do
  local row, state = call('HGET', B .. 'j', id), call('HGET', B .. 's', id)
  local s = row and state_of(state, read_record(row))
  if s and s.state == PENDING and not has(s.flags, PARKED) then live = live + 1 end
end
return live
