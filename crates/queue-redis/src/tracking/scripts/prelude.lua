-- What every script of a tracked queue begins with: its keys, its clock, how its rows are packed, and how jobs change state.
--
-- KEYS[1]  the base of the queue's keys, `PREFIX:track:{QUEUE}:`; all of them share its hash tag.
--
-- j  HASH  id -> record: the newest copy of the job    s  HASH  id -> row: what became of it
-- i  HASH  id .. letter -> what few jobs have: r result, e error, h history, p progress, l logs, k park key, c cancel request
-- a  ZSET  ids by when the sweep must look at them: staged copies, parked jobs
-- l  ZSET  ids that run, by the end of their lease     t  ZSET  ids by when they are due      x  ZSET  ids by when they expire
-- u  HASH  unique key -> id .. until (0: until it is finished)                 w  ZSET  unique keys by the end of their window
-- d  ZSET  dead ids by death            f  ZSET  other finished ids by end
-- o  ZSET  ids of pending jobs that are not parked, by when they became so
-- g  ZSET  ids of evicted jobs, and z of withdrawn ones, by when they went
-- k  ZSET  park keys by how many        k:KEY  ZSET  parked ids in their order
-- y  HASH  id .. queue -> a follow-up of this queue's jobs that its own queue has not been given yet
-- n  HASH  counters, the last ticket, the watermark, the switches               e  STREAM  events
--
-- The ZSETs a, l, t, x, d, f and o follow from the rows: `places` says how, and `flush` writes what differs.
local call, pack, unpick = redis.call, struct.pack, struct.unpack
local B = KEYS[1]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local PENDING, SCHEDULED, RETRYING, RUNNING, COMPLETED, DEAD, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6, 7, 8
local COUNTER = { 'p', 's', 't', 'r', 'c', 'd', 'c', 'c' }
local ENDED = { [COMPLETED] = 'completed', [DEAD] = 'dead_lettered', [CANCELLED] = 'cancelled', [EXPIRED] = 'expired' }
local LETTERS = { 'r', 'e', 'h', 'p', 'l', 'k', 'c' }

-- Bits of a row's flags.
local MARKED, ORPHANED, CANCELLING, DETAILED, PARKED = 1, 2, 4, 8, 16
-- Where the newest copy is: still to be published; by a promise that a refusal cannot undo; for the next life of a dead job.
local STAGED, PROMISED, REDRIVEN = 32, 64, 128
-- Its submission was told; its time to live passed while it ran; it has a unique key.
local ANNOUNCED, OUTLIVED, KEYED = 256, 512, 1024

-- The sets in which a row may stand.
local INDEXES = { 'a', 'l', 't', 'x', 'd', 'f', 'o' }

local function has(flags, bit) return flags % (2 * bit) >= bit end
local function with(flags, bit) return has(flags, bit) and flags or flags + bit end
local function without(flags, bit) return has(flags, bit) and flags - bit or flags end

local switches = call('HMGET', B .. 'n', 'watched', 'ticket')
local watched = tonumber(switches[1] or 0) > now
-- Tickets are given once, and never again even where a failover lost the last of them: they keep up with the clock, four a millisecond, as far
-- as a queue gives no more than these on the average; fences have 44 bits for them, enough until the year 2109.
local ticket = math.max(tonumber(switches[2] or 0), now * 4)
local function next_ticket()
  ticket = ticket + 1
  return ticket
end

local VERSION = 1

-- What a record says to the scripts; the copy itself, behind it, is the client's.
local function read_record(record)
  local r = {}
  r.version, r.window, r.unique, r.kind = unpick('<BI6Hc0Bc0', record)
  if r.unique == '' then r.unique = nil end
  return r
end

local function record_of(id)
  local record = call('HGET', B .. 'j', id)
  return record and read_record(record)
end

-- Behind it the size of the record, as a number of four bytes.
local ROW = '<BBI2BI4I4I8I4I4I4I4I2I6I8I6I6I6I6I6I6I8c8Bc0Bc0'

-- Where a row stands.
local function places(s)
  local p = {}
  if s.state == RUNNING then
    -- A copy that was staged for a dead lease waits while its holder shows signs of life again. Where a newer copy than the claimed
    -- one is on its way already, there is nothing to look for, as long as its time to live lasts.
    if has(s.flags, STAGED) then
      p.l = math.max(s.stage_end, s.turn)
    elseif has(s.flags, OUTLIVED) or s.claimed == s.generation then
      p.l = s.turn
    end
  elseif s.state < RUNNING then
    if has(s.flags, STAGED) then p.a = s.stage_end elseif has(s.flags, PARKED) then p.a = s.turn end
    if s.state ~= PENDING then p.t = s.turn elseif not has(s.flags, PARKED) then p.o = s.changed end
  elseif s.state == DEAD then
    p.d = s.changed
  else
    p.f = s.changed
  end
  if s.state <= RUNNING and s.expires > 0 and not has(s.flags, OUTLIVED) then p.x = s.expires end
  return p
end

local function parse_row(s, row)
  local at
  s.version, s.state, s.flags, s.priority, s.attempt, s.started, s.ticket, s.generation, s.copy_attempt, s.copy_deliveries, s.claimed,
    s.place, s.submitted, s.born, s.changed, s.started_at, s.turn, s.due, s.stage_end, s.expires, s.settled, s.print, s.worker,
    s.provider, at = unpick(ROW, row)
  -- Rows of the first builds end before it.
  s.bytes = #row > at and unpick('<I4', row, at) or call('HSTRLEN', B .. 'j', s.id)
  s.was, s.was_state = places(s), s.state
end

-- A row of a newer version is `newer`, and nothing else can be said of it; nor of one that cannot be read.
local function read_row(id, row)
  local s = { id = id }
  if row:byte() == VERSION and pcall(parse_row, s, row) and COUNTER[s.state] then return s end
  return { id = id, newer = true, state = 0, flags = 0 }
end

local function write_row(s)
  return pack(ROW .. 'I4', VERSION, s.state, s.flags, s.priority, s.attempt, s.started, s.ticket, s.generation, s.copy_attempt,
    s.copy_deliveries, s.claimed, s.place, s.submitted, s.born, s.changed, s.started_at, s.turn, s.due, s.stage_end, s.expires,
    s.settled, s.print, #s.worker, s.worker, #s.provider, s.provider, s.bytes)
end

-- Rows that were read, by id; false where there is none.
local rows = {}
local function load(ids)
  local missing = {}
  for _, id in ipairs(ids) do
    if rows[id] == nil then
      rows[id] = false
      missing[#missing + 1] = id
    end
  end
  if #missing == 0 then return end
  local found = call('HMGET', B .. 's', unpack(missing))
  for n, id in ipairs(missing) do rows[id] = found[n] and read_row(id, found[n]) end
end

-- The job, unless it is absent or of a newer version.
local function find(id)
  load({ id })
  local s = rows[id]
  return s and not s.newer and s or nil
end

local delta, dirty, told = {}, {}, {}
local function count(name, by) delta[name] = (delta[name] or 0) + by end

-- It is written in the end.
local function keep(s)
  if not s.dirty then
    s.dirty = true
    dirty[#dirty + 1] = s
  end
end

local function tell(s, what, kind)
  if watched or what == 'cancel_requested' then
    local record = not kind and record_of(s.id)
    told[#told + 1] = { s.id, what, s.attempt, kind or record and record.kind or '' }
  end
end

local function announce(s, kind)
  if not has(s.flags, ANNOUNCED) then
    s.flags = with(s.flags, ANNOUNCED)
    keep(s)
    tell(s, 'submitted', kind)
  end
end

local function detail(s, letter, value)
  s.flags = with(s.flags, DETAILED)
  call('HSET', B .. 'i', s.id .. letter, value)
end

-- What it holds, as retention counts it.
local function bytes_of(s) return s.bytes + (has(s.flags, DETAILED) and call('HSTRLEN', B .. 'i', s.id .. 'r') or 0) end

-- Whom, other than the job itself, the key belongs to. A holder that is over, or gone, has it no longer.
local function holder_of(unique, id)
  local held = unique and call('HGET', B .. 'u', unique)
  if not held or held:sub(1, 16) == id then return nil end
  local holder, till = held:sub(1, 16), unpick('<I6', held, 17)
  if till > 0 then return till > now and holder or nil end
  load({ holder })
  local s = rows[holder]
  return s and s.state <= RUNNING and holder or nil
end

local function hold(unique, window, id)
  local till = window > 0 and now + window or 0
  call('HSET', B .. 'u', unique, id .. pack('<I6', till))
  if till > 0 then call('ZADD', B .. 'w', till, unique) end
end

-- Frees a job's key. Its window holds on, unless the job was never accepted.
local function free(s, withdrawn)
  if not has(s.flags, KEYED) then return end
  local r = record_of(s.id)
  local held = r and r.unique and call('HGET', B .. 'u', r.unique)
  if held and held:sub(1, 16) == s.id and (withdrawn or unpick('<I6', held, 17) == 0) then call('HDEL', B .. 'u', r.unique) end
end

-- A parked job leaves its key's line with whatever happens to it.
local function leave_line(s)
  if not has(s.flags, PARKED) then return end
  s.flags = without(s.flags, PARKED)
  count('k', -1)
  local key = call('HGET', B .. 'i', s.id .. 'k')
  if not key then return end
  call('HDEL', B .. 'i', s.id .. 'k')
  call('ZREM', B .. 'k:' .. key, s.id)
  if tonumber(call('ZINCRBY', B .. 'k', -1, key)) <= 0 then call('ZREM', B .. 'k', key) end
end

-- The one way from one state into another. What else a trigger brings is for its caller.
local function move(s, to, event)
  leave_line(s)
  s.ticket = next_ticket()
  s.state, s.changed, s.due = to, now, 0
  s.flags = without(s.flags, OUTLIVED)
  if event then tell(s, event) end
  if to > RUNNING then
    free(s, false)
    if to ~= DEAD then count('fbytes', bytes_of(s)) end
  end
  keep(s)
end

local function finish(s, to) move(s, to, ENDED[to]) end

local function wait_until(s, at)
  s.due, s.turn = at, at
  keep(s)
end

local function stage(s, until_, origin)
  s.flags = with(without(without(s.flags, PROMISED), REDRIVEN), STAGED)
  if origin then s.flags = with(s.flags, origin) end
  s.stage_end = until_
  keep(s)
end

local function sent(s)
  s.flags = without(without(without(s.flags, STAGED), PROMISED), REDRIVEN)
  keep(s)
end

-- Whether this very copy is staged and unconfirmed.
local function is_staged(s, generation)
  return s and s.state <= RUNNING and has(s.flags, STAGED) and s.generation == generation
end

-- Makes the newest copy a new one, which outdates every copy before it.
local function renew_copy(s)
  s.generation, s.copy_attempt, s.copy_deliveries = math.min(s.generation + 1, 2 ^ 32 - 1), s.attempt, s.started
  keep(s)
end

-- Keeps the last failure, and those before it within bounds.
local function fail(s, error)
  detail(s, 'e', error)
  local history = (call('HGET', B .. 'i', s.id .. 'h') or '') .. pack('<I4I6I4c0', s.attempt, now, #error, error)
  local past, place = 0, 1
  while place <= #history do
    past = past + 1
    place = place + 14 + unpick('<I4', history, place + 10)
  end
  if past > 16 then history = history:sub(15 + unpick('<I4', history, 11)) end
  detail(s, 'h', history)
end

-- A copy as the client packs it: how it is to be kept is its `record`.
local HEAD = '<c16I2BI4I4I4I6I6'
local function read_copy(head, record)
  local copy = { record = record }
  local at
  copy.id, copy.place, copy.priority, copy.generation, copy.attempt, copy.deliveries, copy.not_before, copy.expires, at =
    unpick(HEAD, head)
  return copy, at
end

-- The newest copy is this one from now on.
local function replace(s, copy)
  call('HSET', B .. 'j', s.id, copy.record)
  local keyed = read_record(copy.record).unique
  s.flags = keyed and with(s.flags, KEYED) or without(s.flags, KEYED)
  s.priority, s.generation, s.copy_attempt, s.copy_deliveries = copy.priority, copy.generation, copy.attempt, copy.deliveries
  s.expires, s.bytes = copy.expires, #copy.record
  keep(s)
end

-- Begins a record. Whoever holds its key goes on holding it.
local function admit(copy, provider, hold_until)
  local r = read_record(copy.record)
  local due = math.max(copy.not_before, hold_until)
  local s = { id = copy.id, state = due > now and SCHEDULED or PENDING, flags = 0, attempt = copy.attempt, started = copy.deliveries,
    ticket = next_ticket(), claimed = copy.generation, place = copy.place, submitted = now, born = ticket, changed = now, started_at = 0,
    turn = 0, due = 0, stage_end = 0, settled = 0, print = string.rep('\0', 8), worker = '', provider = provider, was = {} }
  replace(s, copy)
  rows[s.id] = s
  if s.state == SCHEDULED then wait_until(s, due) end
  if r.unique and not holder_of(r.unique, s.id) then hold(r.unique, r.window, s.id) end
  call('ZREM', B .. 'z', s.id)
  call('ZREM', B .. 'g', s.id)
  count('submitted', 1)
  return s
end

-- Removes all traces but a tombstone, in `g` or `z`, if one is wanted.
local function forget(s, stones)
  leave_line(s)
  if s.state > RUNNING and s.state ~= DEAD then count('fbytes', -bytes_of(s)) end
  s.gone = true
  keep(s)
  if stones then call('ZADD', B .. stones, now, s.id) end
end

-- When a job of this id was made, where it says so.
local function made_at(id)
  local b = { id:byte(1, 7) }
  if math.floor(b[7] / 16) ~= 7 then return nil end
  local made = 0
  for n = 1, 6 do made = made * 256 + b[n] end
  return made
end

-- Why there is no record: 'E' it was evicted, 'W' it was withdrawn; nothing where nobody knows.
local function stone_of(id)
  if call('ZSCORE', B .. 'g', id) then return 'E' end
  if call('ZSCORE', B .. 'z', id) then return 'W' end
  local mark, made = tonumber(call('HGET', B .. 'n', 'mark') or -1), made_at(id)
  return made and made <= mark and 'E' or nil
end

local STONE_AGE, STONES = 14 * 24 * 3600 * 1000, 100000

-- Forgets tombstones that are too old or too many, some at a time: ids of this queue that are no younger are taken for evicted ones.
local function prune()
  local mark = tonumber(call('HGET', B .. 'n', 'mark') or -1)
  local raised = mark
  for _, stones in ipairs({ 'g', 'z' }) do
    local over = call('ZCARD', B .. stones) - STONES
    local old = over > 0 and call('ZRANGE', B .. stones, 0, math.min(over, 1000) - 1)
      or call('ZRANGEBYSCORE', B .. stones, '-inf', now - STONE_AGE, 'LIMIT', 0, 1000)
    for _, id in ipairs(old) do raised = math.max(raised, made_at(id) or -1) end
    if #old > 0 then call('ZREM', B .. stones, unpack(old)) end
  end
  if raised > mark then call('HSET', B .. 'n', 'mark', raised) end
end

-- Writes what was changed.
local function flush()
  local adds, rems, written, dropped, details = {}, {}, {}, {}, {}
  for _, s in ipairs(dirty) do
    s.dirty = nil
    local to = s.gone and {} or places(s)
    for _, index in ipairs(INDEXES) do
      if to[index] and to[index] ~= s.was[index] then
        adds[index] = adds[index] or {}
        adds[index][#adds[index] + 1] = to[index]
        adds[index][#adds[index] + 1] = s.id
      elseif s.was[index] and not to[index] then
        rems[index] = rems[index] or {}
        rems[index][#rems[index] + 1] = s.id
      end
    end
    if s.was_state then count(COUNTER[s.was_state], -1) end
    if s.gone then
      dropped[#dropped + 1] = s.id
      if has(s.flags, DETAILED) then
        for _, letter in ipairs(LETTERS) do details[#details + 1] = s.id .. letter end
      end
      rows[s.id] = false
    else
      count(COUNTER[s.state], 1)
      written[#written + 1] = s.id
      written[#written + 1] = write_row(s)
      s.was, s.was_state = to, s.state
    end
  end
  dirty = {}
  for index, ids in pairs(rems) do call('ZREM', B .. index, unpack(ids)) end
  if #dropped > 0 then
    call('HDEL', B .. 's', unpack(dropped))
    call('HDEL', B .. 'j', unpack(dropped))
  end
  if #details > 0 then call('HDEL', B .. 'i', unpack(details)) end
  if #written > 0 then call('HSET', B .. 's', unpack(written)) end
  for index, entries in pairs(adds) do call('ZADD', B .. index, unpack(entries)) end
  for name, by in pairs(delta) do
    if by ~= 0 then call('HINCRBY', B .. 'n', name, by) end
  end
  delta = {}
  if ticket > tonumber(switches[2] or 0) and #written > 0 then call('HSET', B .. 'n', 'ticket', ticket) end
  for _, event in ipairs(told) do
    call('XADD', B .. 'e', 'MAXLEN', '~', 4096, '*', 'j', event[1], 'w', event[2], 'a', event[3], 'k', event[4], 't', now)
  end
  told = {}
end

-- Lets time do its work on jobs that wait, on so many at most. Leases and stages end only where the sweep or a claim looks at them.
local function advance(limit)
  local due = call('ZRANGEBYSCORE', B .. 't', '-inf', now, 'LIMIT', 0, limit)
  local ending = call('ZRANGEBYSCORE', B .. 'x', '-inf', now, 'LIMIT', 0, limit)
  if #due + #ending == 0 then return false end
  if #due > 0 then load(due) end
  if #ending > 0 then load(ending) end
  local stray = { t = {}, x = {} }
  for _, id in ipairs(due) do
    local s = rows[id]
    if s and (s.state == SCHEDULED or s.state == RETRYING) then move(s, PENDING) else stray.t[#stray.t + 1] = id end
  end
  for _, id in ipairs(ending) do
    local s = rows[id]
    if s and s.state == RUNNING and not s.newer then
      -- Should it come back, its time to live is looked at again; should its lease die, by the sweep.
      s.flags = with(s.flags, OUTLIVED)
      keep(s)
    elseif s and s.state < RUNNING and not s.newer then
      finish(s, EXPIRED)
    else
      stray.x[#stray.x + 1] = id
    end
  end
  -- What an index says of a job that is not so, or is not there: it must not be met again at every turn.
  for index, ids in pairs(stray) do
    for _, id in ipairs(ids) do
      if not (rows[id] and rows[id].newer) then call('ZREM', B .. index, id) end
    end
  end
  return math.max(#due, #ending) == limit
end

-- Ends a job whose lease is dead and whose time to live has passed: the transport drops every copy of it, so no claim would.
local function end_outlived(s)
  local over = has(s.flags, OUTLIVED) or s.expires > 0 and s.expires <= now
  if s.state ~= RUNNING or not over then return false end
  if has(s.flags, CANCELLING) then
    finish(s, CANCELLED)
  else
    tell(s, 'lease_lost')
    finish(s, EXPIRED)
  end
  return true
end

-- Gives a copy to the caller for publication, and keeps other sweeps off it for a stage lease. What it answers is appended.
local function hand_out(s, lease, answer)
  if end_outlived(s) then return end
  local staged = has(s.flags, STAGED)
  if has(s.flags, PARKED) then move(s, PENDING) end
  -- The copy before is acknowledged (parked), or with a worker that fell silent: it must not run beside this one. A silent worker keeps
  -- its fence until somebody claims, so that it may still settle.
  if not staged then renew_copy(s) end
  stage(s, now + lease, PROMISED)
  announce(s)
  answer[#answer + 1] = pack('<c16I2I4I4I4', s.id, s.place, s.generation, s.copy_attempt, s.copy_deliveries)
  answer[#answer + 1] = call('HGET', B .. 'j', s.id) or ''
end

-- Stages a follow-up, unless it, or another with its unique key, exists: then its work is done or under way.
local function follow(copy, provider, lease)
  load({ copy.id })
  if rows[copy.id] or call('ZSCORE', B .. 'g', copy.id) or call('ZSCORE', B .. 'z', copy.id) then return end
  local r = read_record(copy.record)
  if holder_of(r.unique, copy.id) then
    -- Should its copy be on its way all the same, it must find that it is not wanted.
    call('ZADD', B .. 'z', now, copy.id)
    return
  end
  local s = admit(copy, provider, 0)
  stage(s, math.max(now + lease, copy.not_before), PROMISED)
  announce(s, r.kind)
end
