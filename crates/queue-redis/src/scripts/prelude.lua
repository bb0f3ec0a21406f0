-- What every script of a queue begins with: its keys, its clock, how its rows are packed, and how jobs change state.
--
-- KEYS[1]  the base of the queue's keys, `PREFIX:{QUEUE}:`; all of them share its hash tag. On a cluster the others follow it, only
--          so that the server refuses the whole script while one of them is on another node.
--
-- j  HASH  id -> record: what was submitted            s  HASH  id -> status; absent: as it was submitted
-- i  HASH  id .. letter -> what few jobs have: r result, e error, h history, p progress, l logs, k park key, c cancel request
-- r1..r15  LIST of ids that are ready, by priority     h  ZSET  ids back at the head, by priority and rank
-- t  ZSET  ids by when their state ends: delay, lease, park; `claim:` and the epoch of one of many                x  ZSET  ids by when they expire
-- q  HASH  epoch -> what was claimed together and nobody has touched since: for these `s` says nothing, and they run
-- u  HASH  unique key -> id .. until (0: until it is finished)                    w  ZSET  unique keys by the end of their window
-- d  ZSET  dead ids by death            c  LIST  other finished ids by end
-- a, b  HASH  ids forgotten by retention, lately and before -> note: epoch .. print of the last settlement
-- y, z  HASH  the same of ids that are not kept (untracked), lately and before   l  LIST of id .. note of many at once, in one string
-- k  ZSET  park keys by how many        k:KEY  ZSET  parked ids by rank
-- ix  SET  what jobs are indexed by     ik:KIND, it:TAG, io:TENANT  SET of ids, where the queue keeps indexes
-- n  HASH  counters                     m  ZSET  a marker that wakes one sleeper  e  STREAM  events
-- v  ZSET  the same for who maintains the queue
--
-- A script reads and checks first and writes last: what it changes gathers in tables and is written by `flush`.
local call, pack, unpick = redis.call, struct.pack, struct.unpack
local B = KEYS[1]
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local PENDING, SCHEDULED, RETRYING, RUNNING, COMPLETED, DEAD, CANCELLED, EXPIRED = 1, 2, 3, 4, 5, 6, 7, 8
local COUNTER = { 'p', 's', 't', 'r', 'c', 'd', 'c', 'c' }
local ENDED = { [COMPLETED] = 'completed', [DEAD] = 'dead_lettered', [CANCELLED] = 'cancelled', [EXPIRED] = 'expired' }
local LETTERS = { 'r', 'e', 'h', 'p', 'l', 'k', 'c' }

-- Bits of a record's flags.
local EXPIRES, UNIQUE, LATER = 1, 2, 4
-- Bits of a status's flags.
local MARKED, ORPHANED, CANCELLING, DETAILED, PARKED = 1, 2, 4, 8, 16
-- What its record says, so that it need not be read again, payload and all.
local ENDS, KEYED = 32, 64

local function has(flags, bit) return flags % (2 * bit) >= bit end
local function with(flags, bit) return has(flags, bit) and flags or flags + bit end
local function without(flags, bit) return has(flags, bit) and flags - bit or flags end

-- A hand may have written anything, and a newer version something else: what cannot be read is nil, and its job waits for somebody who can. A
-- script that stopped at it would take with it what it has done to others.
local function readable(parse)
  return function(row)
    local fine, read = pcall(parse, row)
    return fine and read or nil
  end
end
-- How long until such a job is looked at again.
local UNREADABLE = 60000

-- What is no number counts as none; who looks through the queue removes it.
local function number(value) return tonumber(value or 0) or 0 end

-- Until when a unique key is held, 0: until its job is finished; nil where that cannot be read.
local hold_ends = readable(function(hold) return (unpick('<I6', hold, 17)) end)

-- A record's head; what follows is the client's. Expiry, and window and key, only where the flags say so.
local read_record = readable(function(row)
  local r, at = {}
  r.version, r.flags, r.priority, r.submitted, r.rank, r.attempt, r.started, at = unpick('<BBBI6I6I2I2', row)
  if has(r.flags, EXPIRES) then r.expires, at = unpick('<I6', row, at) end
  if has(r.flags, UNIQUE) then r.window, r.unique, at = unpick('<I6Hc0', row, at) end
  r.kind = unpick('<Bc0', row, at)
  return r.version == 1 and r.priority >= 1 and r.priority <= 15 and r
end)

local STATUS = '<BBBI4I4I8I6I6I6I6I8c8Bc0'

local read_status = readable(function(row)
  local s = {}
  s.state, s.flags, s.priority, s.attempt, s.started, s.epoch, s.rank, s.changed, s.started_at, s.turn, s.settled, s.print, s.worker =
    unpick(STATUS, row)
  return COUNTER[s.state] and s.priority >= 1 and s.priority <= 15 and s
end)

local function write_status(s)
  return pack(STATUS, s.state, s.flags, s.priority, s.attempt, s.started, s.epoch, s.rank, s.changed, s.started_at, s.turn, s.settled,
    s.print, #s.worker, s.worker)
end

-- The status of a job that nothing has happened to yet.
local function first_status(r)
  if not r then return nil end
  local flags = (has(r.flags, EXPIRES) and ENDS or 0) + (has(r.flags, UNIQUE) and KEYED or 0)
  return { state = has(r.flags, LATER) and SCHEDULED or PENDING, flags = flags, priority = r.priority, attempt = r.attempt,
    started = r.started, epoch = 0, rank = r.rank, changed = r.submitted, started_at = 0, turn = 0, settled = 0,
    print = string.rep('\0', 8), worker = '' }
end

-- What is known of a job by its status and its record, which is read already; as it was submitted only where there is no status. Nil of one that
-- has a record but cannot be read: such a one is let stand where it stands, or is put off, until somebody comes who can.
local function state_of(state, r)
  if not r then return nil end
  if state then return read_status(state) end
  return first_status(r)
end

-- Generations: when the later one is so large, it becomes the earlier one.
local GONE, NOTES = 10000, 1024

-- More than any job holds: added to what it holds where of its details there is only a result.
local ONLY_RESULT = 2 ^ 40

-- Tickets a millisecond.
local TICKETS = 64

local delta, rows, dropped, timers, untimed, lanes, told, over, bare, unending, gone, notes
-- An id that is over, or another job's by now, may stand in a line: what is claimed gets its own status until the lines are empty.
local doubt
local watched, sleeping, paused, ticket, born, indexes, indexed, resting
-- Jobs came in that expire.
local expiring
local ready

-- Turns to a queue. Whatever was changed of another must be flushed before.
local function turn_to(base)
  B = base
  delta, rows, dropped, timers, untimed, lanes, told, ready, doubt = {}, {}, {}, {}, {}, {}, {}, 0, false
  over, bare, unending, gone, notes = {}, {}, {}, {}, {}
  local switches = call('HMGET', B .. 'n', 'watched', 'sleeping', 'paused', 'ticket', 'born', 'indexes', 'indexed', 'tick')
  watched, sleeping, resting, expiring = number(switches[1]) > now, number(switches[2]) > now, number(switches[8]) > now, false
  paused = switches[3] == '1'
  born, indexes, indexed = switches[5], switches[6], switches[7]
  -- Given once, and never again even where a failover lost the last of them: tickets keep up with the clock, 64 a millisecond, and so outrun all
  -- that were given before it by a queue that gave no more than these. As ranks they fit 48 bits until the year 2109.
  ticket = math.max(number(switches[4]), now * TICKETS)
end
turn_to(KEYS[1])

-- Said before anything was done to whoever knows a queue by a declaration that does not stand any more.
local STALE = redis.error_reply('STALE the queue was dropped since')

local function count(name, by) delta[name] = (delta[name] or 0) + by end

-- The first of so many numbers that were never given before: they rank jobs and fence leases.
local function tickets(n)
  ticket = ticket + n
  call('HSET', B .. 'n', 'ticket', ticket)
  return ticket - n + 1
end

local function record_of(id)
  local row = call('HGET', B .. 'j', id)
  return row and read_record(row)
end

local function tell(id, s, what, record)
  if watched or what == 'cancel_requested' then
    record = record or record_of(id)
    told[#told + 1] = { id, what, s.attempt, record and record.kind or '' }
  end
end

local function keep(id, s)
  rows[#rows + 1] = id
  rows[#rows + 1] = write_status(s)
end

local function wait_until(id, s, at)
  s.turn = at
  timers[#timers + 1] = at
  timers[#timers + 1] = id
end

local function wait_no_more(id, s)
  s.turn = 0
  untimed[#untimed + 1] = id
end

-- Ready, behind the others of its priority.
local function to_tail(id, s, rank)
  s.rank = rank
  local lane = lanes[s.priority]
  if not lane then
    lane = {}
    lanes[s.priority] = lane
  end
  lane[#lane + 1] = id
  ready = ready + 1
end

-- Ready, where it stood before it was claimed: before all that were not claimed since.
local function to_head(id, s)
  call('ZADD', B .. 'h', (15 - s.priority) * 2 ^ 48 + s.rank, id)
  ready = ready + 1
end

local function move(s, to)
  count(COUNTER[s.state], -1)
  count(COUNTER[to], 1)
  s.state, s.changed = to, now
end

local function detail(id, s, letter, value)
  s.flags = with(s.flags, DETAILED)
  call('HSET', B .. 'i', id .. letter, value)
end

-- What a job is indexed by, as its record says.
local terms_of = readable(function(row)
  local terms, flags, at, kind = {}, row:byte(2), 20, nil
  if has(flags, EXPIRES) then at = at + 6 end
  if has(flags, UNIQUE) then at = at + 8 + unpick('<H', row, at + 6) end
  kind, at = unpick('<Bc0', row, at)
  if indexes:find('k') then terms[1] = 'ik:' .. kind end
  if not indexes:find('[ot]') then return terms end
  local function varint()
    local value, scale = 0, 1
    repeat
      local byte = row:byte(at)
      value, scale, at = value + byte % 128 * scale, scale * 128, at + 1
    until byte < 128
    return value
  end
  local options = row:byte(at)
  at = at + 2 + row:byte(at + 1) + 6
  varint()
  varint()
  if has(options, 1) then at = at + 6 end
  if has(options, 2) then at = at + 8 end
  if has(options, 4) then
    varint()
    at = at + 26
  end
  local length = varint()
  if length == 0 then return terms end
  local headers = cjson.decode(row:sub(at, at + length - 1))
  if indexes:find('o') and headers.keys and headers.keys.tenant then terms[#terms + 1] = 'io:' .. headers.keys.tenant end
  if indexes:find('t') then
    for _, tag in ipairs(headers.tags or {}) do terms[#terms + 1] = 'it:' .. tag end
  end
  return terms
end)

local function enter(id, row)
  for _, term in ipairs(terms_of(row) or {}) do
    if call('SADD', B .. term, id) == 1 then call('SADD', B .. 'ix', term) end
  end
end

local function strike(id, row)
  for _, term in ipairs(row and terms_of(row) or {}) do
    call('SREM', B .. term, id)
    if call('EXISTS', B .. term) == 0 then call('SREM', B .. 'ix', term) end
  end
end

-- What it holds, as retention counts it.
local function bytes_of(id) return call('HSTRLEN', B .. 'j', id) + call('HSTRLEN', B .. 'i', id .. 'r') end

-- Removes all traces but those that say so.
local function forget(id, s, tombstone)
  count(COUNTER[s.state], -1)
  dropped[#dropped + 1] = id
  if has(s.flags, DETAILED) then
    for _, letter in ipairs(LETTERS) do bare[#bare + 1] = id .. letter end
  end
  if has(s.flags, ENDS) then unending[#unending + 1] = id end
  local kept = tombstone and gone or notes
  if tombstone or s.settled > 0 then
    kept[#kept + 1] = id
    kept[#kept + 1] = pack('<I8c8', s.settled, s.print)
  end
end

-- What is remembered of the last settlements of these forgotten jobs; false for others.
local function forgotten_of(ids)
  local young, old = call('HMGET', B .. 'a', unpack(ids)), call('HMGET', B .. 'b', unpack(ids))
  for n = 1, #ids do young[n] = young[n] or old[n] end
  return young
end

-- A job is over: its unique key is free, unless its window holds on, and retention begins.
local function finish(id, s, to, tracked, r)
  doubt = doubt or s.state == PENDING
  move(s, to)
  if to == COMPLETED then count('completed', 1) end
  if has(s.flags, KEYED) then
    r = r or record_of(id)
    local held = r and r.unique and call('HGET', B .. 'u', r.unique)
    if held and held:sub(1, 16) == id and hold_ends(held) == 0 then call('HDEL', B .. 'u', r.unique) end
  end
  tell(id, s, ENDED[to], r)
  if to == DEAD then
    call('ZADD', B .. 'd', now, id)
  elseif tracked then
    over[#over + 1] = id
    -- No time ends its state any more: there stands what it holds.
    s.turn = bytes_of(id)
    count('fbytes', s.turn)
  else
    forget(id, s, false)
    return
  end
  keep(id, s)
end

-- A parked job is parked no longer.
local function leave_key(id, s)
  s.flags = without(s.flags, PARKED)
  local key = call('HGET', B .. 'i', id .. 'k')
  if not key then return end
  call('HDEL', B .. 'i', id .. 'k')
  call('ZREM', B .. 'k:' .. key, id)
  if tonumber(call('ZINCRBY', B .. 'k', -1, key)) <= 0 then call('ZREM', B .. 'k', key) end
  count('k', -1)
end

-- Takes jobs in, once each. `new` is a list of { id, flags, priority, due, expires, window, unique, attempt, started, body }; the
-- answer to each is 'A' accepted, 'F' full, or 'D' and the id that holds its key. Follow-ups are never refused.
local function admit(new, max_len, follows)
  local ids, answers, ending = {}, {}, {}
  for n, job in ipairs(new) do ids[n] = job.id end
  local room = max_len
  if not follows then
    for _, waiting in ipairs(call('HMGET', B .. 'n', 'p', 's', 't')) do room = room - number(waiting) end
  end
  local known, went = call('HMGET', B .. 'j', unpack(ids)), forgotten_of(ids)
  local records = {}
  local rank, taken = tickets(#new), {}
  for n, job in ipairs(new) do
    local holder
    if job.unique then
      local held = call('HGET', B .. 'u', job.unique)
      if held and held:sub(1, 16) ~= job.id then
        local till = hold_ends(held)
        if till and (till == 0 or till > now) then holder = held:sub(1, 16) end
      end
    end
    if known[n] or went[n] or taken[job.id] then
      answers[n] = 'A'
    elseif holder then
      answers[n] = 'D' .. holder
    elseif room <= 0 and not follows then
      answers[n] = 'F'
    else
      answers[n] = 'A'
      taken[job.id] = true
      room = room - 1
      local flags, head = job.flags, ''
      local waits = job.due > now
      if waits then flags = with(flags, LATER) end
      if job.expires > 0 then head = pack('<I6', job.expires) end
      if job.unique then
        head = head .. pack('<I6Hc0', job.window, #job.unique, job.unique)
        local till = job.window > 0 and now + job.window or 0
        call('HSET', B .. 'u', job.unique, job.id .. pack('<I6', till))
        if till > 0 then call('ZADD', B .. 'w', till, job.unique) end
      end
      records[#records + 1] = job.id
      records[#records + 1] = pack('<BBBI6I6I2I2', 1, flags, job.priority, now, rank + n - 1, job.attempt, job.started) .. head .. job.body
      local s = { priority = job.priority, attempt = job.attempt }
      if waits then
        count('s', 1)
        wait_until(job.id, s, job.due)
      else
        count('p', 1)
        to_tail(job.id, s, rank + n - 1)
      end
      if job.expires > 0 then
        ending[#ending + 1] = job.expires
        ending[#ending + 1] = job.id
      end
      count('submitted', 1)
      if watched then told[#told + 1] = { job.id, 'submitted', job.attempt, unpick('<Bc0', job.body) } end
    end
  end
  if #records > 0 then call('HSET', B .. 'j', unpack(records)) end
  if indexes then
    for n = 1, #records, 2 do enter(records[n], records[n + 1]) end
  end
  if #ending > 0 then call('ZADD', B .. 'x', unpack(ending)) end
  expiring = expiring or #ending > 0
  return answers
end

-- A job to come in, as the client packs it.
local function read_new(meta, body)
  local job = { body = body }
  local at
  job.id, job.flags, job.priority, job.due, job.expires, job.window, job.attempt, job.started, at = unpick('<c16BBI6I6I6I2I2', meta)
  if has(job.flags, UNIQUE) then job.unique = meta:sub(at) end
  return job
end

local function write_lanes()
  for priority, lane in pairs(lanes) do call('RPUSH', B .. 'r' .. priority, unpack(lane)) end
  lanes = {}
end

local function remember(young, old, what, most)
  if #what == 0 then return end
  call('HSET', B .. young, unpack(what))
  if call('HLEN', B .. young) > most then
    -- What a rename would overwrite it frees at once.
    call('UNLINK', B .. old)
    call('RENAME', B .. young, B .. old)
  end
end

-- Writes what was changed, and wakes a sleeper where there is something for it.
local function flush()
  write_lanes()
  if #rows > 0 then call('HSET', B .. 's', unpack(rows)) end
  if #untimed > 0 then call('ZREM', B .. 't', unpack(untimed)) end
  if #timers > 0 then call('ZADD', B .. 't', unpack(timers)) end
  if #dropped > 0 then
    if indexes then
      for n, row in ipairs(call('HMGET', B .. 'j', unpack(dropped))) do strike(dropped[n], row) end
    end
    call('HDEL', B .. 'j', unpack(dropped))
    call('HDEL', B .. 's', unpack(dropped))
  end
  if #over > 0 then call('RPUSH', B .. 'c', unpack(over)) end
  -- A hundred jobs have seven hundred details: as many at once as `unpack` bears by far.
  if #bare > 0 then call('HDEL', B .. 'i', unpack(bare)) end
  if #unending > 0 then call('ZREM', B .. 'x', unpack(unending)) end
  remember('a', 'b', gone, GONE)
  remember('y', 'z', notes, NOTES)
  for name, by in pairs(delta) do
    if by ~= 0 and type(redis.pcall('HINCRBY', B .. 'n', name, by)) == 'table' then call('HSET', B .. 'n', name, by) end
  end
  if doubt then call('HSET', B .. 'n', 'doubt', 1) end
  for _, event in ipairs(told) do
    call('XADD', B .. 'e', 'MAXLEN', '~', 4096, '*', 'j', event[1], 'w', event[2], 'a', event[3], 'k', event[4], 't', now)
  end
  -- Who maintains the queue has something to do in it from now on.
  if resting and (#rows > 0 or #timers > 0 or #over > 0 or expiring) then
    call('ZADD', B .. 'v', 0, '0')
    call('HDEL', B .. 'n', 'tick')
    resting = false
  end
  -- Who sleeps until a timer must know of an earlier one.
  if sleeping and (ready > 0 or #timers > 0) and not paused then call('ZADD', B .. 'm', 0, '0') end
end

-- What a plain claim wrote of many jobs together.
local read_claim = readable(function(row)
  local c, held = {}, nil
  c.version, c.priority, c.at, c.ends, c.worker, held, c.ids = unpick('<BBI6I6Bc0Bc0', row)
  c.held, c.ids = { held:byte(1, -1) }, row:sub(c.ids)
  return c.version == 1 and c.priority >= 1 and c.priority <= 15 and #c.ids == 16 * #c.held and c
end)

-- What their statuses begin and end with, as `STATUS` has it; between stands the epoch, which is the rank as well.
local function status_around(c)
  return pack('<BBBI4I4', RUNNING, 0, c.priority, 1, 0), pack('<I6I6I6I8I8Bc0', c.at, c.at, c.ends, 0, 0, #c.worker, c.worker)
end

-- Gives each of these jobs the status and the lease that it would have had alone. What cannot be read is looked at again later.
local function unfold_one(key, row)
  local c = tonumber(key) and read_claim(row)
  if not c then
    call('ZADD', B .. 't', now + UNREADABLE, 'claim:' .. key)
    return
  end
  local head, tail = status_around(c)
  local states, leases, ends = {}, {}, string.format('%.0f', c.ends)
  for n, held in ipairs(c.held) do
    if held == 1 then
      local id, epoch = c.ids:sub(16 * n - 15, 16 * n), key + n
      states[#states + 1] = id
      states[#states + 1] = head .. pack('<I8I6', epoch, epoch) .. tail
      leases[#leases + 1] = ends
      leases[#leases + 1] = id
    end
  end
  if #states > 0 then
    call('HSET', B .. 's', unpack(states))
    call('ZADD', B .. 't', unpack(leases))
  end
  call('HDEL', B .. 'q', key)
  call('ZREM', B .. 't', 'claim:' .. key)
end

-- Before a script looks at the status of jobs: these, or any. Of many, those that were claimed with one of them.
local function unfold(ids)
  if call('EXISTS', B .. 'q') == 0 then return end
  local all, few, meant = call('HGETALL', B .. 'q'), ids and #ids <= 8, {}
  for i = 1, ids and #ids or 0 do meant[ids[i]] = true end
  local function is_meant(row)
    if not ids then return true end
    for i = 1, few and #ids or 0 do
      if row:find(ids[i], 1, true) then return true end
    end
    local c = not few and read_claim(row)
    for n = 1, c and #c.held or 0 do
      if meant[c.ids:sub(16 * n - 15, 16 * n)] then return true end
    end
    return false
  end
  for n = 1, #all, 2 do
    if is_meant(all[n + 1]) then unfold_one(all[n], all[n + 1]) end
  end
end

-- The same of those whose lease has ended, whether or not their entry in `t` says so.
local function unfold_due()
  if call('EXISTS', B .. 'q') == 0 then return end
  local all = call('HGETALL', B .. 'q')
  for n = 1, #all, 2 do
    local c = read_claim(all[n + 1])
    if not c or c.ends <= now then
      unfold_one(all[n], all[n + 1])
    elseif not call('ZSCORE', B .. 't', 'claim:' .. all[n]) then
      call('ZADD', B .. 't', c.ends, 'claim:' .. all[n])
    end
  end
end

-- Of these entries of `t` those of many at once. Whether there was any.
local function unfold_of(due)
  local any = false
  for _, member in ipairs(due) do
    local key = #member > 16 and member:match('^claim:(%d+)$')
    local row = key and call('HGET', B .. 'q', key)
    if row then unfold_one(key, row) end
    any = any or row
  end
  return any
end

-- Lets time do its work, on so many jobs at most: delays, leases and parks that have ended, and times to live.
local function advance(limit, tracked)
  local due
  repeat
    due = call('ZRANGEBYSCORE', B .. 't', '-inf', now, 'LIMIT', 0, limit)
  until not unfold_of(due)
  if #due > 0 then
    local states, records = call('HMGET', B .. 's', unpack(due)), call('HMGET', B .. 'j', unpack(due))
    local rank = tickets(#due)
    for n, id in ipairs(due) do
      local r = records[n] and read_record(records[n])
      local s = state_of(states[n], r)
      local waits = not s and states[n] and read_status(states[n])
      if records[n] and states[n] and not s and not waits then
        call('ZADD', B .. 't', now + UNREADABLE, id)
      else
        untimed[#untimed + 1] = id
      end
      if records[n] and not r and (waits and waits.state <= RUNNING or not states[n]) then
        if waits and waits.state > PENDING then
          move(waits, PENDING)
          keep(id, waits)
        end
        call('RPUSH', B .. 'r1', id)
      end
      if s and s.state == RUNNING then
        s.flags = with(s.flags, ORPHANED)
        if has(s.flags, CANCELLING) then
          finish(id, s, CANCELLED, tracked, r)
        else
          move(s, PENDING)
          tell(id, s, 'lease_lost', r)
          to_head(id, s)
          keep(id, s)
        end
      elseif s and s.state == PENDING and has(s.flags, PARKED) then
        leave_key(id, s)
        s.changed = now
        to_head(id, s)
        keep(id, s)
      elseif s and s.state < RUNNING then
        -- One that is pending could not be read, and now it can.
        if s.state ~= PENDING then move(s, PENDING) end
        to_tail(id, s, rank + n - 1)
        keep(id, s)
      end
    end
    write_lanes()
    if #untimed > 0 then call('ZREM', B .. 't', unpack(untimed)) end
    untimed = {}
    if #rows > 0 then call('HSET', B .. 's', unpack(rows)) end
    rows = {}
  end
  local ending = call('ZRANGEBYSCORE', B .. 'x', '-inf', now, 'LIMIT', 0, limit)
  if #ending > 0 then
    local states, records = call('HMGET', B .. 's', unpack(ending)), call('HMGET', B .. 'j', unpack(ending))
    call('ZREM', B .. 'x', unpack(ending))
    for n, id in ipairs(ending) do
      local r = records[n] and read_record(records[n])
      local s = state_of(states[n], r)
      if records[n] and not s then call('ZADD', B .. 'x', now + UNREADABLE, id) end
      -- One that runs may end well; should it come back, its claim looks again.
      if s and s.state <= RETRYING then
        if has(s.flags, PARKED) then leave_key(id, s) end
        call('ZREM', B .. 'h', id)
        wait_no_more(id, s)
        finish(id, s, EXPIRED, tracked, r)
      end
    end
    if #rows > 0 then call('HSET', B .. 's', unpack(rows)) end
    rows = {}
  end
  return math.max(#due, #ending) == limit
end

-- In how many milliseconds time has work to do, -1 for never.
local function next_due()
  local first = call('ZRANGE', B .. 't', 0, 0, 'WITHSCORES')
  return first[2] and math.max(0, first[2] - now) or -1
end
