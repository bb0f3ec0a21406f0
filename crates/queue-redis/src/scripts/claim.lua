-- Leases ready jobs, the most urgent first, and lets time do its work before.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: most jobs, lease in ms, worker, tracked (1 or 0), how long the consumer would sleep, in ms, the incarnation of the queue.
-- Answers { ms until time has work to do or -1, 1 if paused or 2 where claims are bare ids, an epoch, packed claims, then the record of each }. A claim is an id, and 0 where
-- nothing had happened to the job (its epoch is the one above and its place among the jobs), or 1 and what had. Bare ids share a row under that
-- epoch, and nothing had happened to any.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time.
local most, lease, worker, tracked, sleep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
if born ~= ARGV[6] then return STALE end
advance(200, tracked)

local LMPOP = { 'LMPOP', 15 }
for priority = 15, 1, -1 do LMPOP[#LMPOP + 1] = B .. 'r' .. priority end
LMPOP[18], LMPOP[19] = 'LEFT', 'COUNT'

-- The next ids in order, at most so many, and where they come from: their lines, or nothing for the head. From there they come one at a time,
-- and are few. First what was taken from the lines already.
local function pop(n)
  if popped then
    local ids = popped
    popped = nil
    return ids, lines
  end
  local head = call('ZRANGE', B .. 'h', 0, 0, 'WITHSCORES')
  if head[1] then
    local priority = 15 - math.floor(head[2] / 2 ^ 48)
    for higher = 15, priority + 1, -1 do
      local ids = call('LPOP', B .. 'r' .. higher, n)
      if ids then return ids, { { #ids, B .. 'r' .. higher } } end
    end
    call('ZREM', B .. 'h', head[1])
    return { head[1] }
  end
  LMPOP[20] = n
  local lane = call(unpack(LMPOP))
  if lane then return lane[2], { { #lane[2], lane[1] } } end
end

local answer, claims, taken, seen, bytes, full = { -1, 0, 0, '' }, {}, 0, {}, 0, false
local function tell_claim(id, epoch, s, record)
  claims[#claims + 1] = pack('<c16BI8I4I4B', id, 1, epoch, s.attempt, s.started, has(s.flags, ORPHANED) and 1 or 0)
  answer[#answer + 1] = record
  bytes = bytes + #record
end

while taken < most and not full do
  local ids, from = pop(most - taken)
  if not ids then break end
  local states, records = call('HMGET', B .. 's', unpack(ids)), call('HMGET', B .. 'j', unpack(ids))
  local epoch = tickets(#ids)
  for n, id in ipairs(ids) do
    local r = records[n] and read_record(records[n])
    local s = state_of(states[n], r)
    if records[n] and #claims > 0 and bytes + #records[n] > BYTES then
      full = true
      if from then
        give_back(ids, n, from)
      elseif s then
        to_head(id, s)
      else
        -- It cannot be read, and is told of later.
        call('ZADD', B .. 't', 'NX', now, id)
      end
      break
    end
    -- Told, so that somebody hears of it, and put off.
    if records[n] and not s and not seen[id] then
      seen[id] = true
      call('ZADD', B .. 't', 'NX', now + UNREADABLE, id)
      -- A job whose record can be read would be run.
      tell_claim(id, 0, { attempt = 0, started = 0, flags = 0 }, r and '' or records[n])
    end
    -- What was cancelled, purged or forgotten since it lined up is met here.
    if s and s.state == PENDING and not has(s.flags, PARKED) and not seen[id] then
      seen[id] = true
      if r.expires and r.expires <= now then
        finish(id, s, EXPIRED, tracked, r)
      else
        move(s, RUNNING)
        s.epoch, s.started_at, s.worker, s.flags = epoch + n - 1, now, worker, without(s.flags, MARKED)
        -- Who goes back to the head stands there as it was claimed for the first time.
        if from then s.rank = s.epoch end
        wait_until(id, s, now + lease)
        keep(id, s)
        tell(id, s, 'started', r)
        taken = taken + 1
        tell_claim(id, s.epoch, s, records[n])
      end
    end
  end
end
answer[4] = table.concat(claims)
-- What it left is for somebody else; its own leases wake nobody.
ready = (taken == most or full) and 1 or 0
local leases = timers
timers = {}
flush()
-- But for these leases, whose end who claimed knows.
answer[1] = next_due()
if #leases > 0 then call('ZADD', B .. 't', unpack(leases)) end
if taken == 0 then
  if sleep > 0 then call('HSET', B .. 'n', 'sleeping', now + sleep) end
end
return answer
