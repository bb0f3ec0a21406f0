-- The numbers of a queue, and since when the ready job that waits longest has been ready.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: nothing.
-- Answers { paused, pending, parked, scheduled, retrying, running, dead, finished, submitted, completed, failed, oldest }, the last in ms, or -1.
-- O(1), and O(log n) for each id that an older version left in the line of n pending ones; a hundred of these are looked at.
advance(100)
local oldest = -1
-- Others are looked at only where the first is none.
for _, most in ipairs({ 1, 99 }) do
  local front = call('ZRANGE', B .. 'o', 0, most - 1, 'WITHSCORES')
  local ids = {}
  for n = 1, #front, 2 do ids[#ids + 1] = front[n] end
  if #ids > 0 then load(ids) end
  for n, id in ipairs(ids) do
    local s = rows[id]
    local since
    if s then since = s.newer and tonumber(front[2 * n]) or not s.newer and places(s).o end
    if since then
      oldest = since
      break
    end
    call('ZREM', B .. 'o', id)
  end
  if oldest >= 0 then break end
end
flush()
local numbers = call('HMGET', B .. 'n', 'paused', 'p', 'k', 's', 't', 'r', 'd', 'c', 'submitted', 'completed', 'failed')
numbers[#numbers + 1] = oldest
return numbers
