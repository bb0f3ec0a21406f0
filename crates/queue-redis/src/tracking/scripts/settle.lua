-- Ends claims, with all that follows from it.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: stage lease in ms, then for each settlement: packed head; value (result, error or park key); packed copy and record of its
-- successor, if there is one; and for each follow-up its queue (nothing: this one), packed copy, record.
-- Where all are completed without follow-ups: the stage lease, and one argument: of each id, ticket, generation, print, and its value with
-- its length before it.
-- Answers one string each: S settled, A the same was settled before, C another was, L the lease was lost; then 1 or 0: the successor is
-- staged; then for each follow-up 1 or 0: it is staged, or Y: it waits here for its own queue, or ?: its own queue knows.
-- O(log n) each; n jobs run, are staged or wait for a time.
local COMPLETE, RETRY, RELEASE, PARK, BURY, CANCEL, EXPIRE = 1, 2, 3, 4, 5, 6, 7
local lease = tonumber(ARGV[1])
-- What frees memory must be possible where there is none left: Redis refuses a script only until it has written.
call('HDEL', B .. 'n', '')
advance(100)

local items, at = {}, 2
if #ARGV == 2 then
  local all = ARGV[2]
  at = 1
  while at <= #all do
    local item, length = { how = COMPLETE, after = 0, follow_ups = {} }, nil
    item.id, item.epoch, item.generation, item.print, length = unpick('<c16I8I4c8I4', all, at)
    item.value = all:sub(at + 40, at + 39 + length)
    at = at + 40 + length
    items[#items + 1] = item
  end
  at = 3
end
while at <= #ARGV do
  local item, follow_ups, succeeds = { follow_ups = {} }, nil, nil
  item.id, item.epoch, item.generation, item.how, item.print, item.after, succeeds, follow_ups = unpick('<c16I8I4Bc8I6BH', ARGV[at])
  item.value = ARGV[at + 1]
  at = at + 2
  if succeeds == 1 then
    item.successor = read_copy(ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  for n = 1, follow_ups do
    item.follow_ups[n] = { queue = ARGV[at], head = ARGV[at + 1], record = ARGV[at + 2] }
    at = at + 3
  end
  items[#items + 1] = item
end

local function park(s, item)
  s.flags = with(s.flags, PARKED)
  s.turn = now + item.after
  sent(s)
  detail(s, 'k', item.value)
  call('ZADD', B .. 'k:' .. item.value, s.ticket, s.id)
  call('ZINCRBY', B .. 'k', 1, item.value)
  count('k', 1)
end

local function settle(s, item)
  local how, after = item.how, item.after
  s.settled, s.print = item.epoch, item.print
  -- Who gives a job back unstarted says nothing of whether it ends whoever starts it: it stays a redelivery.
  if has(s.flags, MARKED) or not (how == RELEASE or how == PARK) then s.flags = without(s.flags, ORPHANED) end
  if has(s.flags, MARKED) then s.started, s.flags = math.max(0, s.started - 1), without(s.flags, MARKED) end
  if how == RETRY or how == BURY then
    fail(s, item.value)
    count('failed', 1)
  end
  if how == COMPLETE then
    count('completed', 1)
    if item.value ~= '' then detail(s, 'r', item.value:sub(2)) end
  end
  -- A job that was asked to stop does not come back.
  if has(s.flags, CANCELLING) and (how == RETRY or how == RELEASE or how == PARK) then how = CANCEL end
  if how == COMPLETE then
    finish(s, COMPLETED)
  elseif how == BURY then
    finish(s, DEAD)
  elseif how == CANCEL then
    finish(s, CANCELLED)
  elseif how == EXPIRE then
    finish(s, EXPIRED)
  else
    if how == RETRY then
      move(s, after > 0 and RETRYING or PENDING, 'retrying')
      s.attempt = s.attempt + 1
    elseif how == RELEASE then
      move(s, after > 0 and SCHEDULED or PENDING, 'released')
    else
      move(s, PENDING, 'parked')
    end
    -- One that the sweep staged for the lease while it was dead has the same generation, and serves as well.
    if item.successor then
      replace(s, item.successor)
      stage(s, now + lease, PROMISED)
    end
    if how == PARK then
      park(s, item)
    elseif after > 0 then
      wait_until(s, now + after)
      if has(s.flags, STAGED) then s.stage_end = math.max(s.stage_end, now + after) end
    end
  end
  for _, follow_up in ipairs(item.follow_ups) do
    local copy = read_copy(follow_up.head, follow_up.record)
    if follow_up.queue == '' then
      follow(copy, s.provider, lease)
    else
      local value = pack('<HBc0', #follow_up.head, #s.provider, s.provider) .. follow_up.head .. follow_up.record
      call('HSET', B .. 'y', copy.id .. follow_up.queue, value)
    end
  end
end

local function answer(outcome, s, item)
  if outcome ~= 'S' and outcome ~= 'A' then return outcome end
  outcome = outcome .. (item.successor and is_staged(s, item.successor.generation) and '1' or '0')
  for _, follow_up in ipairs(item.follow_ups) do
    local copy = read_copy(follow_up.head, follow_up.record)
    if follow_up.queue ~= '' then
      outcome = outcome .. (call('HEXISTS', B .. 'y', copy.id .. follow_up.queue) == 1 and 'Y' or '?')
    else
      outcome = outcome .. (is_staged(find(copy.id), copy.generation) and '1' or '0')
    end
  end
  return outcome
end

local ids, answers = {}, {}
for n, item in ipairs(items) do ids[n] = item.id end
load(ids)
for n, item in ipairs(items) do
  local s = find(item.id)
  local outcome = 'L'
  if s and s.state == RUNNING and s.ticket == item.epoch and s.claimed == item.generation then
    settle(s, item)
    outcome = 'S'
  elseif s and s.settled == item.epoch then
    outcome = s.print == item.print and 'A' or 'C'
  end
  answers[n] = answer(outcome, s, item)
end
flush()
return answers
