-- Looks through a part of the queue and repairs what a fault, an eviction or somebody's hand broke in it. Where it goes on stands in `n`, so that
-- whoever sweeps next goes on there.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: how many rows at most, about.
-- Answers { how many repairs, 1 if a round is done }.
-- O(log n) a row; at the end of a round O(1) for each of 5,000 rows at most.
--
-- A round: s  rows, and where each must stand   u  unique keys   k  park keys; then the counters are set to what there is. What stands in a set
-- and has no row is met where its turn comes.
local most = tonumber(ARGV[1])
call('HDEL', B .. 'n', '')
local at = call('HGET', B .. 'n', 'mend')
if not at or not at:find('^[suk]%d+$') then at = 's0' end
local phase, cursor = at:sub(1, 1), at:sub(2)
local repairs, budget = 0, most
local function repaired() repairs = repairs + 1 end

local function pairs_of(key)
  local part = call('HSCAN', B .. key, cursor, 'COUNT', 100)
  cursor = part[1]
  local ids, values = {}, {}
  for n = 1, #part[2], 2 do
    ids[#ids + 1], values[#values + 1] = part[2][n], part[2][n + 1]
  end
  budget = budget - #ids
  return ids, values
end

local function stand(s, index, score)
  local place = places(s)[index]
  if place and tonumber(score or -1) ~= place then
    call('ZADD', B .. index, place, s.id)
  elseif score and not place then
    call('ZREM', B .. index, s.id)
  else
    return
  end
  -- Versions that know nothing of `o` leave it as it is: there nothing was broken.
  if index ~= 'o' then repaired() end
end

local parts = {}

function parts.s()
  local ids = pairs_of('s')
  if #ids == 0 then return end
  load(ids)
  local scores = {}
  for _, index in ipairs(INDEXES) do scores[index] = call('ZMSCORE', B .. index, unpack(ids)) end
  for n, id in ipairs(ids) do
    local s = rows[id]
    if s and not s.newer then
      if s.state < RUNNING and call('HEXISTS', B .. 'j', id) == 0 then
        -- There is nothing left to publish. Should the transport have it, its claim brings it back.
        forget(s)
        repaired()
      else
        for _, index in ipairs(INDEXES) do stand(s, index, scores[index][n]) end
        local key = has(s.flags, PARKED) and call('HGET', B .. 'i', id .. 'k')
        if key and not call('ZSCORE', B .. 'k:' .. key, id) then
          call('ZADD', B .. 'k:' .. key, s.ticket, id)
          repaired()
        end
        -- Counted when the keys have their turn.
        if key then call('ZADD', B .. 'k', 'NX', 0, key) end
      end
    end
  end
  flush()
end

function parts.u()
  local keys, holds = pairs_of('u')
  local ids = {}
  for n = 1, #keys do ids[n] = holds[n]:sub(1, 16) end
  load(ids)
  for n, key in ipairs(keys) do
    local s, till = rows[ids[n]], #holds[n] == 22 and unpick('<I6', holds[n], 17)
    local is_over = not s or not s.newer and s.state > RUNNING
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
    local key, many = part[2][n], part[2][n + 1]
    local line = B .. 'k:' .. key
    local ids = call('ZRANDMEMBER', line, 50)
    budget = budget - 1 - #ids
    load(ids)
    for _, id in ipairs(ids) do
      local s = rows[id]
      local parked = s and (s.newer or has(s.flags, PARKED) and call('HGET', B .. 'i', id .. 'k') == key)
      if not parked then
        call('ZREM', line, id)
        repaired()
      end
    end
    local there = call('ZCARD', line)
    if there ~= tonumber(many) then
      if there == 0 then call('ZREM', B .. 'k', key) else call('ZADD', B .. 'k', there, key) end
      repaired()
    end
  end
end

-- Counts anew what can be counted at one look.
local function recount()
  if call('HLEN', B .. 's') > 5000 then return end
  local found = { p = 0, s = 0, t = 0, r = 0, d = 0, c = 0, k = 0 }
  for _, row in ipairs(call('HVALS', B .. 's')) do
    local counter = row:byte() == VERSION and COUNTER[row:byte(2)]
    if counter then
      found[counter] = found[counter] + 1
      if row:byte(2) == PENDING and has(row:byte(3), PARKED) then found.k = found.k + 1 end
    end
  end
  for name, number in pairs(found) do
    if tonumber(call('HGET', B .. 'n', name) or 0) ~= number then
      call('HSET', B .. 'n', name, number)
      repaired()
    end
  end
  if found.c == 0 and tonumber(call('HGET', B .. 'n', 'fbytes') or 0) ~= 0 then call('HSET', B .. 'n', 'fbytes', 0) end
end

local NEXT = { s = 'u', u = 'k', k = 's' }
local done = false
while budget > 0 and not done do
  parts[phase]()
  budget = budget - 1
  if cursor == '0' then
    done = phase == 'k'
    phase = NEXT[phase]
  end
end
if done then recount() end
call('HSET', B .. 'n', 'mend', phase .. cursor)
return { repairs, done and 1 or 0 }
