-- Looks through a part of the queue and repairs what faults, or somebody's hand, broke in it. Where it goes on stands in `n`, so that whoever
-- leads next goes on there.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: how many rows at most, about.
-- Answers { how many repairs, 1 if a round is done }.
-- O(log n) a row; n jobs are leased, wait for a time, or are finished. Where jobs are missing from their lines, O(1) for each in line, 10,000 at most.
--
-- A round: s  jobs with a status   j  those without one, if some of them must be missing from their line   u  unique keys   k  park keys   x  indexes;
-- then the counters are set to what there is.
local most = tonumber(ARGV[1])
unfold()
local at = call('HGET', B .. 'n', 'mend')
if not at or not at:find('^[sjukx]%d+$') then at = 's0' end
local phase, cursor = at:sub(1, 1), at:sub(2)
local repairs = 0
local function repaired() repairs = repairs + 1 end

-- A switch or a counter that is no number stops those who reckon with it. What drifts for it is counted anew at the end of the round.
local NUMBERS = { 'p', 'k', 's', 't', 'r', 'd', 'c', 'fbytes', 'submitted', 'completed', 'failed', 'version', 'ticket', 'watched', 'sleeping', 'tick' }
for n, value in ipairs(call('HMGET', B .. 'n', unpack(NUMBERS))) do
  if value and not value:find('^-?%d+$') then
    call('HDEL', B .. 'n', NUMBERS[n])
    repaired()
  end
end

-- Lines are in the order of their ranks, but for jobs that are new to them, whose ranks may all be 0. So who waits before the first of his line,
-- and not at the head, is missing from it.
local firsts = {}
local function first_rank(priority)
  if firsts[priority] then return firsts[priority] end
  local lane, place = B .. 'r' .. priority, 0
  -- Behind a hundred that do not tell, nothing is known.
  local first = 0
  for _ = 1, 100 do
    local id = call('LINDEX', lane, place)
    if not id then
      first = math.huge
      break
    end
    local row, state = call('HGET', B .. 'j', id), call('HGET', B .. 's', id)
    local s = row and state_of(state, read_record(row))
    if s and s.state == PENDING and not has(s.flags, PARKED) then
      first = s.rank
      break
    end
    -- What cannot be read stays.
    if place == 0 and (s or not row) then call('LPOP', lane) else place = place + 1 end
  end
  firsts[priority] = first
  return first
end

-- Whether as many stand in lines and wait for times as are not finished.
local function some_are_missing()
  local standing = call('ZCARD', B .. 'h') + call('ZCARD', B .. 't')
  for priority = 1, 15 do standing = standing + call('LLEN', B .. 'r' .. priority) end
  return standing < call('HLEN', B .. 'j') - call('LLEN', B .. 'c') - call('ZCARD', B .. 'd')
end

-- Who stands in a line; nil where none can be missing, or where the lines are longer than one call may look through.
local LINES = 10000
local members, some = {}, nil
local function members_of(priority)
  if members[priority] ~= nil then return members[priority] or nil end
  if some == nil then some = some_are_missing() end
  local lane = B .. 'r' .. priority
  local length = some and call('LLEN', lane) or math.huge
  if length > LINES then
    members[priority] = false
    return nil
  end
  LINES = LINES - length
  local found = {}
  for _, id in ipairs(call('LRANGE', lane, 0, -1)) do found[id] = true end
  members[priority] = found
  return found
end

local function is_missing(id, s)
  -- A claim ranks a job by its ticket: one that came back from it stands at the head, or nowhere.
  if s.epoch > 0 and s.rank == s.epoch then return true end
  local line = members_of(s.priority)
  if line then return not line[id] end
  -- Its rank says nothing of its place: some that may be missing are put at the head, and none once as many stand as there are.
  if s.rank == 0 and not some then return false end
  return s.rank < first_rank(s.priority)
end

-- When a job that was submitted for later, and that nothing has happened to, is due; it stands in what is the client's of its record.
local due_of = readable(function(row)
  local r, place = {}, 20
  r.flags = row:byte(2)
  if has(r.flags, EXPIRES) then place = place + 6 end
  if has(r.flags, UNIQUE) then place = place + 8 + unpick('<H', row, place + 6) end
  place = place + 1 + row:byte(place)
  local options = row:byte(place)
  place = place + 1
  place = place + 1 + row:byte(place)
  place = place + 6
  for _ = 1, 2 do
    while row:byte(place) >= 128 do place = place + 1 end
    place = place + 1
  end
  return options % 2 == 1 and unpick('<I6', row, place) or now
end)

-- `timed` and `heads`: where it stands in `t` and `h`. What cannot be read comes to nobody here: it is left alone.
local function look(id, s, row, timed, heads)
  local in_time = s.state == RUNNING or s.state == SCHEDULED or s.state == RETRYING or s.state == PENDING and has(s.flags, PARKED)
  if in_time and not timed then
    local turn = s.turn
    if turn == 0 then turn = row and due_of(row) or now end
    timers[#timers + 1], timers[#timers + 2] = turn, id
    repaired()
  elseif s.state == PENDING and not has(s.flags, PARKED) and not heads then
    if is_missing(id, s) then
      to_head(id, s)
      -- It may be in a line all the same, where that is too long to look through.
      doubt = true
      repaired()
    end
  end
  if has(s.flags, PARKED) then
    local key = call('HGET', B .. 'i', id .. 'k')
    if key and not call('ZSCORE', B .. 'k:' .. key, id) then
      call('ZADD', B .. 'k:' .. key, s.rank, id)
      repaired()
    end
    -- Counted when the keys have their turn.
    if key then call('ZADD', B .. 'k', 'NX', 0, key) end
  end
end

local budget = most
local function pairs_of(key, count)
  local part = call('HSCAN', B .. key, cursor, 'COUNT', count)
  cursor = part[1]
  local ids, values = {}, {}
  for n = 1, #part[2], 2 do
    ids[#ids + 1], values[#values + 1] = part[2][n], part[2][n + 1]
  end
  budget = budget - #ids
  return ids, values
end

-- Counts anew what can be counted at one look.
local function recount()
  local timed = call('ZCARD', B .. 't')
  if timed > 1000 then return end
  local found = { p = 0, s = 0, t = 0, r = 0, k = 0, d = call('ZCARD', B .. 'd'), c = call('LLEN', B .. 'c') + call('ZCARD', B .. 'f') }
  local ids = timed > 0 and call('ZRANGE', B .. 't', 0, -1) or {}
  local states = timed > 0 and call('HMGET', B .. 's', unpack(ids)) or {}
  for n, id in ipairs(ids) do
    local s = states[n] and read_status(states[n])
    if not states[n] and call('HEXISTS', B .. 'j', id) == 1 then s = { state = SCHEDULED, flags = 0 } end
    if s and s.state <= RUNNING then
      if s.state == PENDING then
        if has(s.flags, PARKED) then found.k = found.k + 1 end
      else
        found[COUNTER[s.state]] = found[COUNTER[s.state]] + 1
      end
    end
  end
  found.p = math.max(0, call('HLEN', B .. 'j') - found.c - found.d - found.s - found.t - found.r)
  for name, number in pairs(found) do
    local said = tonumber(call('HGET', B .. 'n', name) or 0)
    if said ~= number then
      call('HSET', B .. 'n', name, number)
      repaired()
    end
  end
  if found.c == 0 and number(call('HGET', B .. 'n', 'fbytes')) ~= 0 then call('HSET', B .. 'n', 'fbytes', 0) end
end

local PART = 100
local parts = {}

function parts.s()
  local ids, states = pairs_of('s', PART)
  if #ids == 0 then return end
  local timed, heads = call('ZMSCORE', B .. 't', unpack(ids)), call('ZMSCORE', B .. 'h', unpack(ids))
  for n, id in ipairs(ids) do
    local s = read_status(states[n])
    if s and s.state <= RUNNING then
      if call('HEXISTS', B .. 'j', id) == 0 then
        -- There is nothing left to run.
        call('HDEL', B .. 's', id)
        repaired()
      else
        look(id, s, nil, timed[n], heads[n])
      end
    end
  end
end

function parts.j()
  if cursor == '0' and not some_are_missing() then return end
  -- These come with their payloads.
  local ids, records = pairs_of('j', math.ceil(PART / 4))
  if #ids == 0 then return end
  local states = call('HMGET', B .. 's', unpack(ids))
  local timed, heads = call('ZMSCORE', B .. 't', unpack(ids)), call('ZMSCORE', B .. 'h', unpack(ids))
  for n, id in ipairs(ids) do
    local s = not states[n] and first_status(read_record(records[n]))
    if s then look(id, s, records[n], timed[n], heads[n]) end
  end
end

function parts.u()
  local keys, holds = pairs_of('u', PART)
  for n, key in ipairs(keys) do
    local id, till = holds[n]:sub(1, 16), hold_ends(holds[n])
    local state = call('HGET', B .. 's', id)
    local s = state and read_status(state)
    local is_over = s and s.state > RUNNING or call('HEXISTS', B .. 'j', id) == 0
    if not till then
      -- Whoever wrote it knows what it says.
    elseif till == 0 and is_over or till > 0 and till <= now then
      call('HDEL', B .. 'u', key)
      repaired()
    elseif till > 0 and not call('ZSCORE', B .. 'w', key) then
      call('ZADD', B .. 'w', till, key)
      repaired()
    end
  end
end

function parts.k()
  local part = call('ZSCAN', B .. 'k', cursor, 'COUNT', 10)
  cursor = part[1]
  for n = 1, #part[2], 2 do
    local key = part[2][n]
    local line = B .. 'k:' .. key
    local ids = call('ZRANDMEMBER', line, 50)
    budget = budget - 1 - #ids
    for _, id in ipairs(ids) do
      local state = call('HGET', B .. 's', id)
      local s = state and read_status(state)
      local parked = s and s.state == PENDING and has(s.flags, PARKED) and call('HGET', B .. 'i', id .. 'k') == key
      if not parked and (s or not state) then
        call('ZREM', line, id)
        repaired()
      end
    end
    local many = call('ZCARD', line)
    if many ~= tonumber(part[2][n + 1]) then
      if many == 0 then call('ZREM', B .. 'k', key) else call('ZADD', B .. 'k', many, key) end
      repaired()
    end
  end
end

-- Of each set so many, whichever they are: ids that are left in it cost room and time, and are passed over.
local SAMPLE = 50
function parts.x()
  local part = indexes and call('SSCAN', B .. 'ix', cursor, 'COUNT', 10) or { '0', {} }
  cursor = part[1]
  for _, term in ipairs(part[2]) do
    local ids = call('SRANDMEMBER', B .. term, SAMPLE)
    budget = budget - 1 - #ids
    for _, id in ipairs(ids) do
      if call('HEXISTS', B .. 'j', id) == 0 then
        call('SREM', B .. term, id)
        repaired()
      end
    end
    if call('EXISTS', B .. term) == 0 then call('SREM', B .. 'ix', term) end
  end
end

local NEXT = { s = 'j', j = 'u', u = 'k', k = 'x', x = 's' }
local done = false
while budget > 0 and not done do
  parts[phase]()
  budget = budget - 1
  if cursor == '0' then
    done = phase == 'x'
    phase = NEXT[phase]
  end
end
flush()
if done then recount() end
call('HSET', B .. 'n', 'mend', phase .. cursor)
return { repairs, done and 1 or 0 }
