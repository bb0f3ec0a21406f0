-- Since when the ready job that waits longest has been ready.
-- Answers the time in ms, or -1. O(1), and O(1) for each job at the front of a line that was cancelled or forgotten since: it leaves the line.
local oldest = -1
local function look(id)
  local row, state = call('HGET', B .. 'j', id), call('HGET', B .. 's', id)
  local s = row and (state and read_status(state) or first_status(read_record(row)))
  if not s or s.state ~= PENDING or has(s.flags, PARKED) then return false end
  if oldest < 0 or s.changed < oldest then oldest = s.changed end
  return true
end
for priority = 1, 15 do
  local lane = B .. 'r' .. priority
  local id = call('LINDEX', lane, 0)
  while id and not look(id) do
    call('LPOP', lane)
    id = call('LINDEX', lane, 0)
  end
end
for _, id in ipairs(call('ZRANGE', B .. 'h', 0, 99)) do look(id) end
return oldest
