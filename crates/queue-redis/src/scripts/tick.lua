-- What time and retention owe the queue, a part of it.
-- ARGV: tracked (1 or 0), how many at most; retention: age in ms, count, bytes, age of the dead in ms.
-- Answers { how many were forgotten, ms until it is worth coming again or -1, 1 if there is more to do now }.
local tracked, most = ARGV[1] == '1', tonumber(ARGV[2])
local age, kept, bytes, dead_age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local more = advance(most, tracked)

for _, key in ipairs(call('ZRANGEBYSCORE', B .. 'w', '-inf', now, 'LIMIT', 0, most)) do
  local held = call('HGET', B .. 'u', key)
  local till = held and unpick('<I6', held, 17)
  if held and till > 0 and till <= now then call('HDEL', B .. 'u', key) end
  call('ZREM', B .. 'w', key)
end

local forgotten = 0
local function bury(id, counts_bytes)
  local state = call('HGET', B .. 's', id)
  if state then
    if counts_bytes then count('fbytes', -bytes_of(id)) end
    forget(id, read_status(state), true)
  end
  forgotten = forgotten + 1
end

local finished, held = call('ZCARD', B .. 'f'), tonumber(call('HGET', B .. 'n', 'fbytes') or 0)
while forgotten < most do
  local first = call('ZRANGE', B .. 'f', 0, 0, 'WITHSCORES')
  local over = first[1] and (finished > kept or held + (delta.fbytes or 0) > bytes or first[2] + age <= now)
  if not over then break end
  call('ZREM', B .. 'f', first[1])
  bury(first[1], true)
  finished = finished - 1
end
while forgotten < most do
  local first = call('ZRANGE', B .. 'd', 0, 0, 'WITHSCORES')
  if not first[1] or first[2] + dead_age > now then break end
  call('ZREM', B .. 'd', first[1])
  bury(first[1], false)
end
flush()

local soonest = next_due()
local function consider(at)
  if at and (soonest < 0 or at - now < soonest) then soonest = math.max(0, at - now) end
end
consider(call('ZRANGE', B .. 'x', 0, 0, 'WITHSCORES')[2])
local first, dead = call('ZRANGE', B .. 'f', 0, 0, 'WITHSCORES')[2], call('ZRANGE', B .. 'd', 0, 0, 'WITHSCORES')[2]
consider(first and first + age)
consider(dead and dead + dead_age)
return { forgotten, soonest, (more or forgotten >= most) and 1 or 0 }
