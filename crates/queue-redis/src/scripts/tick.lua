-- What time and retention owe the queue, a part of it.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: tracked (1 or 0), how many at most; retention: age in ms, count, bytes, age of the dead in ms;
-- and the declaration from which these follow, if it is to be made sure that it still stands; for how long a queue that rests calls, in ms.
-- Answers nothing where it does not; else { how many were forgotten, ms until it is worth coming again or -1, 1 if there is more to do now, 2 if
-- nothing runs and whatever begins will call }.
-- O(log n) a job that is due or forgotten; n jobs are leased, wait for a time, or are finished.
if ARGV[7] and call('GET', B .. 'spec') ~= ARGV[7] then return {} end
local tracked, most = ARGV[1] == '1', tonumber(ARGV[2])
local age, kept, bytes, dead_age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
resting = false
unfold_due()
local more = advance(most, tracked)

for _, key in ipairs(call('ZRANGEBYSCORE', B .. 'w', '-inf', now, 'LIMIT', 0, most)) do
  local held = call('HGET', B .. 'u', key)
  local till = held and hold_ends(held)
  if till and till > 0 and till <= now then call('HDEL', B .. 'u', key) end
  call('ZREM', B .. 'w', key)
end

-- What versions before 2 kept in a sorted set.
local old = call('ZPOPMIN', B .. 'f', most)
for n = 1, #old, 2 do call('RPUSH', B .. 'c', old[n]) end

-- When the first that finished did so. Only where it must go are more looked at.
local function first_end()
  local id = call('LINDEX', B .. 'c', 0)
  local state = id and call('HGET', B .. 's', id)
  local s = state and read_status(state)
  return s and s.changed, id
end

local forgotten = 0
local ended, first = first_end()
local left, held = call('LLEN', B .. 'c'), number(call('HGET', B .. 'n', 'fbytes'))
if first and (left > kept or held > bytes or not ended or ended + age <= now) then
  local ids, gone_from_line = call('LRANGE', B .. 'c', 0, most - 1), 0
  local states = call('HMGET', B .. 's', unpack(ids))
  local freed, finished, strange = 0, 0, {}
  for n = 1, #ids do
    local id, state = ids[n], states[n]
    local was, flags = (state and #state >= 60 and state or '\0\0'):byte(1, 2)
    if state and (#state < 60 or not COUNTER[was]) then
      -- It stays, behind the others, for who can read it.
      strange[#strange + 1] = id
    elseif was > RUNNING and was ~= DEAD then
      -- As `read_status` would have them: changed, and turn, where what it holds stands.
      local changed, size = unpick('<I6', state, 26), unpick('<I6', state, 38)
      if left <= kept and held <= bytes and changed + age > now then break end
      local only_result = size >= ONLY_RESULT
      if only_result then size = size - ONLY_RESULT end
      if size == 0 then size = bytes_of(id) end
      held, freed, finished = held - size, freed + size, finished + 1
      dropped[#dropped + 1] = id
      if only_result then
        bare[#bare + 1] = id .. 'r'
      elseif flags % 16 >= DETAILED then
        for _, letter in ipairs(LETTERS) do bare[#bare + 1] = id .. letter end
      end
      if flags % 64 >= ENDS then unending[#unending + 1] = id end
      gone[#gone + 1] = id
      gone[#gone + 1] = state:sub(44, 59)
    end
    left, gone_from_line = left - 1, n
  end
  count('fbytes', -freed)
  count('c', -finished)
  forgotten = finished
  if gone_from_line > 0 then call('LPOP', B .. 'c', gone_from_line) end
  if #strange > 0 then call('RPUSH', B .. 'c', unpack(strange)) end
end

local dead = call('ZRANGEBYSCORE', B .. 'd', '-inf', now - dead_age, 'LIMIT', 0, math.max(0, most - forgotten))
if #dead > 0 then
  local states = call('HMGET', B .. 's', unpack(dead))
  for n, id in ipairs(dead) do
    local s = states[n] and read_status(states[n])
    if s and s.state == DEAD then
      forget(id, s, true)
      forgotten = forgotten + 1
    end
  end
  call('ZREM', B .. 'd', unpack(dead))
end
flush()

-- What was there before its indexes were asked for, a part of it; it comes with its payload.
if indexes and indexed ~= indexes then
  local part = call('HSCAN', B .. 'j', call('HGET', B .. 'n', 'fill') or '0', 'COUNT', 25)
  for n = 1, #part[2], 2 do enter(part[2][n], part[2][n + 1]) end
  if part[1] == '0' then
    call('HDEL', B .. 'n', 'fill')
    call('HSET', B .. 'n', 'indexed', indexes)
  else
    call('HSET', B .. 'n', 'fill', part[1])
    more = true
  end
end

local soonest = next_due()
local function consider(at)
  if at and (soonest < 0 or at - now < soonest) then soonest = math.max(0, at - now) end
end
consider(call('ZRANGE', B .. 'x', 0, 0, 'WITHSCORES')[2])
ended = first_end()
consider(ended and ended + age)
local first_dead = call('ZRANGE', B .. 'd', 0, 0, 'WITHSCORES')[2]
consider(first_dead and first_dead + dead_age)
-- Not where something is due within the second in which who maintains comes again anyway.
local state = (more or forgotten >= most) and 1 or 0
local callable = tonumber(ARGV[8] or 0)
if state == 0 and callable > 0 and (soonest < 0 or soonest >= 1000) and number(call('HGET', B .. 'n', 'r')) <= 0 then
  state = 2
  call('HSET', B .. 'n', 'tick', now + callable)
else
  call('HDEL', B .. 'n', 'tick')
end
return { forgotten, soonest, state }
