-- Lets jobs that are parked under a key run, the oldest first.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: key, how many at most.
-- Answers how many.
-- O(log n) a job; n jobs are parked under the key.
local key, most, unparked, passed = ARGV[1], tonumber(ARGV[2]), 0, 0
-- What cannot be read stays in its place, for who can.
while unparked < most and passed < 1000 do
  local ids = call('ZRANGE', B .. 'k:' .. key, passed, passed + most - unparked - 1)
  if #ids == 0 then break end
  for _, id in ipairs(ids) do
    local state = call('HGET', B .. 's', id)
    local s = state and read_status(state)
    if s and has(s.flags, PARKED) then
      leave_key(id, s)
      s.changed = now
      wait_no_more(id, s)
      to_head(id, s)
      keep(id, s)
      unparked = unparked + 1
    elseif s or not state then
      call('ZREM', B .. 'k:' .. key, id)
    else
      passed = passed + 1
    end
  end
end
flush()
return unparked
