-- Ends claims.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: tracked (1 or 0); how many follow-ups there are; then for each settlement: id, packed head with value after it (result, error or park
-- key), and for each of its follow-ups the base of its queue's keys, the queue's incarnation, packed head, body. Where all are completed, without
-- follow-ups: nothing for their number, then groups of four arguments. A group is of one claim of many, another one each: the epoch under which
-- they have a row together, the place of each in it (a byte); or nothing and nothing for what was not claimed so. Then id, epoch and print of
-- each; and, only where it is tracked, size and result of each with its length before it.
-- Answers one letter each: S settled, A the same was settled before, C another was, L the lease was lost.
-- O(1) each, O(log n) for what waits for a time.
local COMPLETE, RETRY, RELEASE, PARK, BURY, CANCEL, EXPIRE = 1, 2, 3, 4, 5, 6, 7
local tracked = ARGV[1] == '1'

local items, at = {}, 3
if ARGV[2] == '' then
  for group = 3, #ARGV, 4 do
    local together = ARGV[group] ~= '' and call('HGET', B .. 'q', ARGV[group])
    if together then unfold_one(ARGV[group], together) end
    local all, extras, place = ARGV[group + 2], ARGV[group + 3], 1
    for start = 1, #all, 32 do
      local item, size, length = { how = COMPLETE, after = 0, value = '', follow_ups = {} }, nil, nil
      item.id, item.epoch, item.print = unpick('<c16I8c8', all, start)
      if tracked then
        size, length, place = unpick('<I4I4', extras, place)
        item.value = extras:sub(place, place + length - 1)
        place = place + length
      end
      items[#items + 1] = item
    end
  end
  at = #ARGV + 1
end
while at <= #ARGV do
  local item = { id = ARGV[at], follow_ups = {} }
  local follow_ups, size, value
  item.epoch, item.how, item.print, item.after, follow_ups, size, value = unpick('<I8Bc8I6HI4', ARGV[at + 1])
  item.value = ARGV[at + 1]:sub(value)
  at = at + 2
  for n = 1, follow_ups do
    item.follow_ups[n] = { base = ARGV[at], job = read_new(ARGV[at + 2], ARGV[at + 3]) }
    if call('HGET', ARGV[at] .. 'n', 'born') ~= ARGV[at + 1] then return STALE end
    at = at + 4
  end
  items[#items + 1] = item
end

-- What is remembered of untracked jobs that were settled with many others, the newest of each; read once for all that ask.
local noted
local function noted_with_others(id)
  if not noted then
    noted = {}
    for _, notes in ipairs(call('LRANGE', B .. 'l', 0, -1)) do
      for place = 1, #notes, 32 do noted[notes:sub(place, place + 15)] = notes:sub(place + 16, place + 31) end
    end
  end
  return noted[id]
end

local function stale(item, s)
  -- None was ever settled under epoch 0: that stands where nothing was.
  if s and item.epoch > 0 and s.settled == item.epoch then return s.print == item.print and 'A' or 'C' end
  if s then return 'L' end
  -- An id that is free again may have been settled several times, alone and with others.
  local notes = {}
  for _, generation in ipairs({ 'y', 'z', 'a', 'b' }) do notes[#notes + 1] = call('HGET', B .. generation, item.id) end
  notes[#notes + 1] = noted_with_others(item.id) or false
  for _, note in ipairs(notes) do
    if note and #note == 16 and unpick('<I8', note) == item.epoch then return note:sub(9) == item.print and 'A' or 'C' end
  end
  return 'L'
end

-- Failures but for the first, where one more would be too many; nothing of what cannot be read.
local without_first = readable(function(history)
  local past, place, second = 0, 1, 1
  while place <= #history do
    past, place = past + 1, place + 14 + unpick('<I4', history, place + 10)
    if past == 1 then second = place end
  end
  return place == #history + 1 and (past < 16 and history or history:sub(second))
end)

-- Keeps the last failure, and those before it within bounds.
local function fail(item, s)
  detail(item.id, s, 'e', item.value)
  local last = pack('<I4I6I4c0', s.attempt, now, #item.value, item.value)
  local old = call('HGET', B .. 'i', item.id .. 'h') or ''
  detail(item.id, s, 'h', (without_first(old) or '') .. last)
end

local function settle(item, s)
  local id, how, waits = item.id, item.how, item.after > 0
  -- Who gives a job back unstarted says nothing of whether it ends whoever starts it: it stays a redelivery.
  if has(s.flags, MARKED) or not (how == RELEASE or how == PARK) then s.flags = without(s.flags, ORPHANED) end
  if has(s.flags, MARKED) then s.started, s.flags = math.max(0, s.started - 1), without(s.flags, MARKED) end
  s.settled, s.print = item.epoch, item.print
  if how == RETRY or how == BURY then fail(item, s) end
  if how == COMPLETE and item.value ~= '' then detail(id, s, 'r', item.value:sub(2)) end
  -- A job that was asked to stop does not come back.
  if has(s.flags, CANCELLING) and (how == RETRY or how == RELEASE or how == PARK) then how = CANCEL end
  if how == COMPLETE then
    wait_no_more(id, s)
    finish(id, s, COMPLETED, tracked)
  elseif how == BURY then
    wait_no_more(id, s)
    count('failed', 1)
    finish(id, s, DEAD, tracked)
  elseif how == CANCEL or how == EXPIRE then
    wait_no_more(id, s)
    finish(id, s, how == CANCEL and CANCELLED or EXPIRED, tracked)
  elseif how == RETRY then
    s.attempt = s.attempt + 1
    count('failed', 1)
    move(s, waits and RETRYING or PENDING)
    if waits then
      wait_until(id, s, now + item.after)
    else
      wait_no_more(id, s)
      to_tail(id, s, tickets(1))
    end
    tell(id, s, 'retrying')
    keep(id, s)
  elseif how == RELEASE then
    move(s, waits and SCHEDULED or PENDING)
    if waits then
      wait_until(id, s, now + item.after)
    else
      wait_no_more(id, s)
      to_head(id, s)
    end
    tell(id, s, 'released')
    keep(id, s)
  else
    move(s, PENDING)
    s.flags = with(s.flags, PARKED)
    detail(id, s, 'k', item.value)
    call('ZADD', B .. 'k:' .. item.value, s.rank, id)
    call('ZINCRBY', B .. 'k', 1, item.value)
    count('k', 1)
    wait_until(id, s, now + item.after)
    tell(id, s, 'parked')
    keep(id, s)
  end
end

local ids, seen, answers, follow_ups = {}, {}, {}, {}
for n, item in ipairs(items) do ids[n] = item.id end
local states = call('HMGET', B .. 's', unpack(ids))
local unknown = {}
for n, id in ipairs(ids) do
  if not states[n] then unknown[#unknown + 1] = id end
end
-- Who was claimed together with others and does not know it any more.
if #unknown > 0 and call('EXISTS', B .. 'q') == 1 then
  unfold(unknown)
  states = call('HMGET', B .. 's', unpack(ids))
end
for n, item in ipairs(items) do
  local s = seen[item.id] or (states[n] and read_status(states[n]))
  if s and s.state == RUNNING and s.epoch == item.epoch then
    settle(item, s)
    answers[n] = 'S'
    for _, follow_up in ipairs(item.follow_ups) do follow_ups[#follow_ups + 1] = follow_up end
  else
    answers[n] = stale(item, s)
  end
  seen[item.id] = s
end
flush()
-- After what they follow from, so that they may have the unique key it has freed.
for _, follow_up in ipairs(follow_ups) do
  turn_to(follow_up.base)
  admit({ follow_up.job }, 0, true)
  flush()
end
return answers
