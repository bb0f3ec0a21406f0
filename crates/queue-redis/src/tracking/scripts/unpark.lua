-- Stages jobs that are parked under a key, in their order.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, provider, key, how many at most.
-- Answers for each: packed copy, record.
-- O(log n) each; n jobs are parked under the key.
local lease, provider, key, most, answer = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), {}
local handed, passed = 0, 0
advance(100)
-- What is another provider's, or cannot be read, stays in its place.
while handed < most and passed < 1000 do
  local ids = call('ZRANGE', B .. 'k:' .. key, passed, passed + most - handed - 1)
  if #ids == 0 then break end
  load(ids)
  for _, id in ipairs(ids) do
    local s = rows[id]
    local mine = s and has(s.flags, PARKED) and s.provider == provider
    if mine then
      hand_out(s, lease, answer)
      handed = handed + 1
    elseif s and (s.newer or has(s.flags, PARKED)) then
      passed = passed + 1
    else
      call('ZREM', B .. 'k:' .. key, id)
      if tonumber(call('ZINCRBY', B .. 'k', -1, key)) <= 0 then call('ZREM', B .. 'k', key) end
    end
  end
end
flush()
return answer
