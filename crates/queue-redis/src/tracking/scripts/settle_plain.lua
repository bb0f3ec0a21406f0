-- Ends claims, where all are completed and nothing is special; where something is, `settle.lua` does it, and nothing has been written.
-- KEYS[1]  as there.
-- ARGV: as there.
-- Answers how many: all are settled.
-- Nothing is special where they come as one argument, no time has come (delay, expiry),
-- nobody watches, every claim is held, and no job has a unique key, was asked to stop, was given out anew, had its start marked or outlived
-- its time.
-- O(1) a job, O(log n) for its lease and its end; n jobs run or are finished. Nine commands a call to eleven.
do
  local call, base = redis.call, KEYS[1]
  local byte, sub, char, pack, unpick = string.byte, string.sub, string.char, struct.pack, struct.unpack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'ticket', 'r', 'c', 'completed', 'fbytes')
  local total, ids, places, found, all, at = 0, {}, {}, nil, ARGV[2], 1
  local plain = #ARGV == 2 and tonumber(n[1] or 0) <= now
    and #call('ZRANGEBYSCORE', base .. 't', '-inf', now, 'LIMIT', 0, 1) == 0
    and #call('ZRANGEBYSCORE', base .. 'x', '-inf', now, 'LIMIT', 0, 1) == 0
  while plain and at <= #all do
    total = total + 1
    ids[total], places[total] = sub(all, at, at + 15), at
    at = at + 40 + unpick('<I4', all, at + 36)
  end
  places[total + 1] = at
  if plain then found = call('HMGET', base .. 's', unpack(ids)) end
  -- As `next_ticket` gives them.
  local ticket, none, changed = math.max(tonumber(n[2] or 0), now * 4), string.rep('\0', 6), pack('<I6', now)
  local stamp = string.format('%.0f', now)
  local rows, ends, mortal, results, seen, bytes = { base .. 's' }, { base .. 'f' }, {}, { base .. 'i' }, {}, 0
  for n = 1, plain and total or 0 do
    local id, row, at, size = ids[n], found[n], places[n], places[n + 1] - places[n] - 40
    -- The shortest row there is; RUNNING, of this version, under this ticket and generation.
    if not row or #row < 111 or seen[id] then plain = false break end
    local provider = 107 + byte(row, 106)
    if #row ~= provider + 4 + (byte(row, provider) or 0) or sub(row, 14, 21) ~= sub(all, at + 16, at + 23)
      or sub(row, 34, 37) ~= sub(all, at + 24, at + 27) then
      plain = false
      break
    end
    local version, state, low, high = byte(row, 1, 4)
    -- Of the flags ORPHANED, which ends with this, DETAILED and ANNOUNCED.
    if version ~= 1 or state ~= 4 or low >= 16 or low % 2 == 1 or low % 8 >= 4 or high ~= 1 then plain = false break end
    seen[id] = true
    if sub(row, 84, 89) ~= none then mortal[#mortal + 1] = id end
    local detailed = low >= 8
    bytes = bytes + unpick('<I4', row, #row - 3)
    if size > 0 then
      detailed = true
      results[#results + 1] = id .. 'r'
      results[#results + 1] = sub(all, at + 41, places[n + 1] - 1)
      bytes = bytes + size - 1
    end
    ticket = ticket + 1
    rows[2 * n] = id
    -- Completed; settled by this claim with this print.
    rows[2 * n + 1] = char(1, 5, detailed and 8 or 0, 1) .. sub(row, 5, 13) .. pack('<I8', ticket) .. sub(row, 22, 53) .. changed
      .. sub(row, 60, 71) .. none .. sub(row, 78, 89) .. sub(all, at + 16, at + 23) .. sub(all, at + 28, at + 35) .. sub(row, 106)
    ends[2 * n], ends[2 * n + 1] = stamp, id
  end
  if plain then
    -- This frees memory, so it may be done where there is none left, and what a script has begun it may end.
    call('ZREM', base .. 'l', unpack(ids))
    if #mortal > 0 then call('ZREM', base .. 'x', unpack(mortal)) end
    if #results > 1 then call('HSET', unpack(results)) end
    call('HSET', unpack(rows))
    call('ZADD', unpack(ends))
    call('HSET', base .. 'n', 'r', (n[3] or 0) - total, 'c', (n[4] or 0) + total, 'completed', (n[5] or 0) + total, 'fbytes',
      (n[6] or 0) + bytes, 'ticket', ticket)
    return { total }
  end
end
