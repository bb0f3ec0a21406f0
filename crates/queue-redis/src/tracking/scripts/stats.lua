-- The numbers of a queue, and since when the ready job that waits longest has been ready.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: nothing.
-- Answers { paused, pending, parked, scheduled, retrying, running, dead, finished, submitted, completed, failed, oldest }, the last in ms, or -1.
-- O(1), and O(log n) for each id that an older version left in the line of n pending ones; a hundred of these are looked at.
advance(100)
local oldest = -1
local front = call('ZRANGE', B .. 'o', 0, 99, 'WITHSCORES')
local ids = {}
for n = 1, #front, 2 do ids[#ids + 1] = front[n] end
if #ids > 0 then load(ids) end
for n, id in ipairs(ids) do
  local s = rows[id]
  if s and (s.newer or places(s).o) then
    oldest = tonumber(front[2 * n])
    break
  end
  call('ZREM', B .. 'o', id)
end
flush()
local numbers = call('HMGET', B .. 'n', 'paused', 'p', 'k', 's', 't', 'r', 'd', 'c', 'submitted', 'completed', 'failed')
numbers[#numbers + 1] = oldest
return numbers
