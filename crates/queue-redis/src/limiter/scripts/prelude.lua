-- What every script of the limiter begins with: its keys, its clock, and the meters.
--
-- KEYS[1]  the base of its keys, `PREFIX:limits:{all}:`. All limits share one hash tag, for a run takes all that it comes under, or none.
--
-- p  HASH  holder -> permit: since when, and for each of its limits: key, turn     l  ZSET  holders by the end of their lease
-- m:KEY  STRING  what is counted for a key; it goes by itself when a new one would be no other
-- w:KEY  ZSET  the numbers of starts in a sliding window, by time; v:KEY  HASH  how many are in each slice of a large one     e  STREAM  breakers that changed
--
-- Times are microseconds of the server's clock.
local call, pack, unpick = redis.call, struct.pack, struct.unpack
local B = KEYS[1]
local clock = call('TIME')
local now = clock[1] * 1000000 + clock[2]

local BUCKET, WINDOW, RUNNING, BREAKER = 1, 2, 3, 4
local CLOSED, OPEN, HALF_OPEN = 1, 2, 3
local SUCCEEDED, FAILED, UNDECIDED, UNUSED = 1, 2, 3, 4
-- As many starts are remembered one by one, and as many slices otherwise.
local EXACT = 1000
-- A breaker counts runs in slices of a 30th of its time, and is remembered as broken for an hour after it could be tried again.
local SLICES, REMEMBERED = 30, 3600 * 1000000
-- Without a limit, as an answer.
local MANY = 4294967295

local meters, touched = {}, {}

local function touch(m)
  if not touched[m.key] then
    touched[m.key] = m
  end
end

-- What happened in the last stretch of time: { first, last, all, bad } by age.
local function recent(m)
  while m.slices[1] and now - m.slices[1][2] >= m.within do table.remove(m.slices, 1) end
  local all, bad = 0, 0
  for _, slice in ipairs(m.slices) do all, bad = all + slice[3], bad + slice[4] end
  return all, bad
end

local function add(m, is_bad)
  local newest = m.slices[#m.slices]
  if newest and now - newest[1] <= m.within / SLICES then
    newest[2], newest[3], newest[4] = math.max(newest[2], now), newest[3] + 1, newest[4] + is_bad
  else
    m.slices[#m.slices + 1] = { now, now, 1, is_bad }
  end
end

local function fresh(key, limit)
  local m = { key = key, sort = limit.sort, held = 0 }
  if m.sort == BUCKET then
    m.rate, m.per, m.burst, m.at = limit[1], limit[2], limit[3], now
    m.level = m.burst * m.per
  elseif m.sort == WINDOW then
    m.max, m.per, m.sliced, m.sum, m.starts = limit[1], limit[2], limit[1] > EXACT, 0, 0
  elseif m.sort == RUNNING then
    m.max, m.running = limit[1], 0
  else
    m.failures, m.within, m.share, m.open_for, m.probes = limit[1], limit[2], limit[3], limit[4], limit[5]
    -- A run of an earlier life says nothing of this one.
    m.state, m.turn, m.slices = CLOSED, now, {}
  end
  return m
end

-- Tokens are counted in parts, of which `per` microseconds make one.
local function fill(m)
  m.level = math.min(m.burst * m.per, m.level + math.max(0, now - m.at) * m.rate)
  m.at = math.max(m.at, now)
end

local function grain(m) return m.sliced and m.per / EXACT or 0 end

-- Starts leave a window when its stretch has passed.
local function slide(m)
  local starts = B .. 'w:' .. m.key
  if not m.sliced then
    call('ZREMRANGEBYSCORE', starts, '-inf', string.format('%.17g', now - m.per))
    m.sum = call('ZCARD', starts)
    return
  end
  local gone = call('ZRANGEBYSCORE', starts, '-inf', string.format('%.17g', now - m.per - grain(m)))
  if #gone == 0 then return end
  for _, slice in ipairs(gone) do
    m.sum = m.sum - (tonumber(call('HGET', B .. 'v:' .. m.key, slice) or 0))
    call('HDEL', B .. 'v:' .. m.key, slice)
  end
  call('ZREM', starts, unpack(gone))
  touch(m)
end

-- A window that grows beyond what is remembered one by one goes on in slices; one that shrinks stays so, until it was idle.
local function to_slices(m)
  local starts = B .. 'w:' .. m.key
  slide(m)
  call('DEL', starts, B .. 'v:' .. m.key)
  m.sliced = true
  if m.sum > 0 then
    local slice = string.format('%.0f', now)
    call('ZADD', starts, slice, slice)
    call('HSET', B .. 'v:' .. m.key, slice, m.sum)
  end
end

-- Takes a changed rule over, with what was counted so far; a limit of another sort begins anew.
local function follow(m, limit)
  if m.sort ~= limit.sort then
    call('DEL', B .. 'w:' .. m.key, B .. 'v:' .. m.key)
    local new = fresh(m.key, limit)
    new.held = m.held
    meters[m.key] = new
    touched[m.key] = new
    return new
  end
  if m.sort == BUCKET and (m.rate ~= limit[1] or m.per ~= limit[2] or m.burst ~= limit[3]) then
    fill(m)
    m.level = m.level / m.per * limit[2]
    m.rate, m.per, m.burst = limit[1], limit[2], limit[3]
    m.level = math.min(m.level, m.burst * m.per)
    touch(m)
  elseif m.sort == WINDOW and (m.max ~= limit[1] or m.per ~= limit[2]) then
    if limit[1] > EXACT and not m.sliced then to_slices(m) end
    m.max, m.per = limit[1], limit[2]
    touch(m)
  elseif m.sort == RUNNING and m.max ~= limit[1] then
    m.max = limit[1]
    touch(m)
  elseif m.sort == BREAKER then
    local policy = { m.failures, m.within, m.share, m.open_for, m.probes }
    for n = 1, 5 do
      if policy[n] ~= limit[n] then touch(m) end
    end
    m.failures, m.within, m.share, m.open_for, m.probes = limit[1], limit[2], limit[3], limit[4], limit[5]
  end
  return m
end

local function known(key)
  if meters[key] == nil then
    local kept = call('GET', B .. 'm:' .. key)
    meters[key] = kept and cmsgpack.unpack(kept) or false
  end
  return meters[key]
end

local function meter(need)
  local m = known(need.key)
  if m then return follow(m, need) end
  meters[need.key] = fresh(need.key, need)
  return meters[need.key]
end

local function turn_to(m, state)
  call('XADD', B .. 'e', 'MAXLEN', '~', 1024, '*', 'k', m.key, 'f', m.state, 't', state, 'a', string.format('%.0f', math.floor(now / 1000)))
  m.state, m.turn = state, math.max(m.turn + 1, now)
  m.slices, m.probing, m.well = {}, 0, 0
  if state == OPEN then m.until_ = now + m.open_for end
  touch(m)
end

-- What time alone brings about.
local function advance(m)
  if m.sort == BREAKER and m.state == OPEN and m.until_ <= now then turn_to(m, HALF_OPEN) end
end

-- How many would be let in, and, where none would, in how many microseconds it is worth looking again; nothing: when a run ends.
local function room(m)
  if m.sort == BUCKET then
    fill(m)
    local free = math.floor(m.level / m.per)
    if free > 0 then return free end
    return 0, math.max(1, math.ceil((m.per - m.level) / m.rate))
  elseif m.sort == WINDOW then
    slide(m)
    local free = m.max - m.sum
    if free > 0 then return free end
    local first = call('ZRANGE', B .. 'w:' .. m.key, 0, 0, 'WITHSCORES')[2]
    return 0, first and math.max(0, first + grain(m) + m.per - now) or 0
  elseif m.sort == RUNNING then
    return math.max(0, m.max - m.running)
  end
  advance(m)
  if m.state == CLOSED then return MANY end
  if m.state == HALF_OPEN then return math.max(0, m.probes - m.probing) end
  return 0, m.until_ - now
end

-- Only where one is free. Answers what `leave` wants to be told.
local function enter(m)
  touch(m)
  m.held = m.held + 1
  if m.sort == BUCKET then
    m.level = m.level - m.per
  elseif m.sort == WINDOW then
    local starts = B .. 'w:' .. m.key
    if m.sliced then
      local slice = string.format('%.0f', math.floor(now / grain(m)) * grain(m))
      call('ZADD', starts, slice, slice)
      call('HINCRBY', B .. 'v:' .. m.key, slice, 1)
    else
      m.starts = m.starts + 1
      call('ZADD', starts, string.format('%.0f', now), m.starts)
    end
    m.sum = m.sum + 1
    return m.starts
  elseif m.sort == RUNNING then
    m.running = m.running + 1
  else
    if m.state == HALF_OPEN then m.probing = m.probing + 1 end
    return m.turn
  end
  return 0
end

local function give_back(m, start, began)
  if m.sort == BUCKET then
    fill(m)
    m.level = math.min(m.burst * m.per, m.level + m.per)
  elseif m.sliced then
    local slice = string.format('%.0f', math.floor(began / grain(m)) * grain(m))
    local count = tonumber(call('HGET', B .. 'v:' .. m.key, slice) or 0)
    if count > 0 then
      call('HINCRBY', B .. 'v:' .. m.key, slice, -1)
      m.sum = m.sum - 1
    end
  else
    local starts = B .. 'w:' .. m.key
    -- Numbers begin anew when a meter was forgotten: by its time it is known whether it is the same start.
    if tonumber(call('ZSCORE', starts, start)) == began then m.sum = m.sum - call('ZREM', starts, start) end
  end
end

local function judge(m, turn, how)
  if turn ~= m.turn then return end
  if m.state == CLOSED and (how == SUCCEEDED or how == FAILED) then
    add(m, how == FAILED and 1 or 0)
    local all, bad = recent(m)
    if how == FAILED and bad >= m.failures and bad >= m.share * all then turn_to(m, OPEN) end
  elseif m.state == HALF_OPEN then
    m.probing = math.max(0, m.probing - 1)
    if how == SUCCEEDED then m.well = m.well + 1 end
    if how == FAILED then
      turn_to(m, OPEN)
    elseif how == SUCCEEDED and m.well >= m.probes then
      turn_to(m, CLOSED)
    end
  end
end

-- The run that was let in then is over. What its key has come to mean since, or that nothing is known of it any more, is no matter.
local function leave(taken, began, how)
  local m = known(taken[1])
  if not m or m.sort ~= taken[3] then return end
  touch(m)
  m.held = math.max(0, m.held - 1)
  if m.sort == RUNNING then
    m.running = math.max(0, m.running - 1)
  elseif m.sort == BREAKER then
    judge(m, taken[2], how)
  elseif how == UNUSED then
    give_back(m, taken[2], began)
  end
end

local function finish(holder, how)
  local permit = call('HGET', B .. 'p', holder)
  call('ZREM', B .. 'l', holder)
  if not permit then return end
  call('HDEL', B .. 'p', holder)
  permit = cmsgpack.unpack(permit)
  for _, taken in ipairs(permit[2]) do leave(taken, permit[1], how) end
end

-- Ends what was not renewed, so much at a time.
local function lapse()
  for _, holder in ipairs(call('ZRANGEBYSCORE', B .. 'l', '-inf', string.format('%.17g', now), 'LIMIT', 0, 500)) do
    finish(holder, UNDECIDED)
  end
end

-- In how many microseconds a new meter would be no other, if nothing happens; 0: it is so already; nothing: not by time alone.
local function idle_in(m)
  if m.sort == BUCKET then
    fill(m)
    return math.ceil((m.burst * m.per - m.level) / m.rate)
  elseif m.sort == WINDOW then
    return m.sum > 0 and m.per + grain(m) or 0
  elseif m.sort == RUNNING then
    return m.running == 0 and 0 or nil
  elseif m.state == CLOSED then
    local all = recent(m)
    -- A run that is under way is told of the turn that it began in.
    return (all > 0 or m.held > 0) and m.within + (m.held > 0 and REMEMBERED or 0) or 0
  end
  return math.max(0, (m.until_ or now) - now) + REMEMBERED
end

-- Writes what was counted.
local LONGEST = 365 * 24 * 3600 * 1000
local function flush()
  for key, m in pairs(touched) do
    local idle = idle_in(m)
    local ms = idle and math.min(math.ceil(idle / 1000), LONGEST)
    if ms == 0 then
      call('DEL', B .. 'm:' .. key, B .. 'w:' .. key, B .. 'v:' .. key)
    elseif ms then
      call('SET', B .. 'm:' .. key, cmsgpack.pack(m), 'PX', ms)
      if m.sort == WINDOW then
        call('PEXPIRE', B .. 'w:' .. key, ms)
        if m.sliced then call('PEXPIRE', B .. 'v:' .. key, ms) end
      end
    else
      call('SET', B .. 'm:' .. key, cmsgpack.pack(m))
    end
  end
end

-- Needs as the client packs them.
local function read_needs(text, at)
  local needs = {}
  while at <= #text do
    local need = {}
    need.key, need.sort, need[1], need[2], need[3], need[4], need[5], at = unpick('<Hc0Bddddd', text, at)
    needs[#needs + 1] = need
  end
  return needs
end
