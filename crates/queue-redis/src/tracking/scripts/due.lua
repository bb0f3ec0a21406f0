-- What the sweep must publish.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, provider, 1 for dead leases too, how many at most.
-- Answers { how many follow-ups wait for their own queues, then for each: packed copy, record }.
-- O(log n) each; n jobs are staged or run. What is another provider's is passed over, so many at most.
local lease, provider, dead_leases, most = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local PASSED = 500
call('HDEL', B .. 'n', '')
advance(100)
prune()
flush()

local answer = { call('HLEN', B .. 'y') }
local function sweep(index)
  local met, at = {}, 0
  while at < PASSED do
    local ids = call('ZRANGEBYSCORE', B .. index, '-inf', now, 'LIMIT', at, 100)
    load(ids)
    for _, id in ipairs(ids) do met[#met + 1] = id end
    at = at + #ids
    if #ids < 100 or #met >= most then break end
  end
  for _, id in ipairs(met) do
    local s = rows[id]
    if #answer > 2 * most then break end
    if not s or not s.newer and not s.was[index] then
      call('ZREM', B .. index, id)
    elseif not s.newer and s.provider == provider then
      hand_out(s, lease, answer)
    end
  end
end
sweep('a')
if dead_leases then sweep('l') end
flush()
return answer
