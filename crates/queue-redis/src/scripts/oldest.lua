-- Since when the ready job that waits longest has been ready.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: nothing.
-- Answers the time in ms, or -1.
-- O(1), and O(1) for each job at the front of a line that was cancelled or forgotten since: it leaves the line. What
-- cannot be read does not; behind it a hundred places are looked at.
local oldest = -1
-- Whether it is ready; nil of one that cannot be read.
local function look(id)
  local row, state = call('HGET', B .. 'j', id), call('HGET', B .. 's', id)
  local s = row and state_of(state, read_record(row))
  if row and not s then return nil end
  if not s or s.state ~= PENDING or has(s.flags, PARKED) then return false end
  if oldest < 0 or s.changed < oldest then oldest = s.changed end
  return true
end
for priority = 1, 15 do
  local lane, place, met = B .. 'r' .. priority, 0, false
  while not met and place < 100 do
    local id = call('LINDEX', lane, place)
    if not id then break end
    met = look(id)
    if met == false and place == 0 then call('LPOP', lane) else place = place + 1 end
  end
end
for _, id in ipairs(call('ZRANGE', B .. 'h', 0, 99)) do look(id) end
return oldest
