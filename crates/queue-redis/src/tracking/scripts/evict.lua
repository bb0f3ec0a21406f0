-- Forgets finished jobs beyond the retention.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: how many at most; age in ms, count, bytes, age of the dead in ms.
-- Answers how many.
-- O(log n) each; n jobs are finished.
local most, age, kept, bytes, dead_age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
call('HDEL', B .. 'n', '')
advance(100)
prune()
flush()

for _, key in ipairs(call('ZRANGEBYSCORE', B .. 'w', '-inf', now, 'LIMIT', 0, most)) do
  local held = call('HGET', B .. 'u', key)
  local till = held and unpick('<I6', held, 17) or 0
  if till > 0 and till <= now then call('HDEL', B .. 'u', key) end
  if till <= now then call('ZREM', B .. 'w', key) end
end

local forgotten = 0
local function take(index, is_over)
  local ids = call('ZRANGE', B .. index, 0, most - forgotten - 1, 'WITHSCORES')
  for n = 1, #ids, 2 do
    local id = ids[n]
    if forgotten >= most or not is_over(tonumber(ids[n + 1])) then return end
    local s = find(id)
    if s and s.was[index] then
      forget(s, 'g')
      forgotten = forgotten + 1
    elseif not (rows[id] and rows[id].newer) then
      call('ZREM', B .. index, id)
    end
  end
end

local finished, held = call('ZCARD', B .. 'f'), tonumber(call('HGET', B .. 'n', 'fbytes') or 0)
take('f', function(ended)
  return finished - forgotten > kept or held + (delta.fbytes or 0) > bytes or ended + age <= now
end)
if most > forgotten then take('d', function(died) return died + dead_age <= now end) end
flush()
return forgotten
