-- Stages jobs that are parked under a key, in their order.
-- ARGV: stage lease in ms, provider, key, how many at most.
-- Answers for each: packed copy, record. O(log n) each; n jobs are parked under the key.
local lease, provider, key, most, answer = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), {}
advance(100)
for _, id in ipairs(call('ZRANGE', B .. 'k:' .. key, 0, most - 1)) do
  local s = find(id)
  if s and has(s.flags, PARKED) then
    if s.provider == provider then hand_out(s, lease, answer) end
  elseif not (rows[id] and rows[id].newer) then
    call('ZREM', B .. 'k:' .. key, id)
    if tonumber(call('ZINCRBY', B .. 'k', -1, key)) <= 0 then call('ZREM', B .. 'k', key) end
  end
end
flush()
return answer
