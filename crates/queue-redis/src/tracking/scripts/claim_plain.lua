-- Judges copies that the transport delivered, where all of them may run and nothing is special; where something is, `claim.lua` does it, and
-- nothing has been written.
-- ARGV and answer as there. Nothing is special where no time has come (delay, expiry), nobody watches, and every copy is that of a pending job
-- as it is known here, which nobody parked or asked to stop.
-- O(1) a job, O(log n) for its lease; n jobs run, are staged or wait for a time. Eight commands a call or nine, whatever the number of jobs.
do
  local call, base = redis.call, KEYS[1]
  local byte, sub, char, pack = string.byte, string.sub, string.char, struct.pack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'ticket', 'p', 'r')
  local plain = tonumber(n[1] or 0) <= now and #call('ZRANGEBYSCORE', base .. 't', '-inf', now, 'LIMIT', 0, 1) == 0
    and #call('ZRANGEBYSCORE', base .. 'x', '-inf', now, 'LIMIT', 0, 1) == 0
  local total, ids, found = #ARGV / 2, {}, nil
  if plain then
    for n = 1, total do ids[n] = sub(ARGV[2 * n - 1], 1, 16) end
    found = call('HMGET', base .. 's', unpack(ids))
  end
  -- As `next_ticket` gives them.
  local ticket, none = math.max(tonumber(n[2] or 0), now * 4), string.rep('\0', 6)
  local rows, leases, staged, answers, seen = { base .. 's' }, { base .. 'l' }, {}, {}, {}
  -- Behind the copy: the lease, the worker and the provider, most often of all alike.
  local said, times, who, ends
  for n = 1, plain and total or 0 do
    local id, row, head = ids[n], found[n], ARGV[2 * n - 1]
    -- The shortest row there is; PENDING, of this version.
    if not row or #row < 107 or seen[id] then plain = false break end
    local provider = 107 + byte(row, 106)
    if #row ~= provider + (byte(row, provider) or 0) then plain = false break end
    local version, state, low, high = byte(row, 1, 4)
    -- Not MARKED, CANCELLING, PARKED, OUTLIVED; due at once; and of the same generation as the copy.
    if version ~= 1 or state ~= 1 or low % 2 == 1 or low % 8 >= 4 or low % 32 >= 16 or high % 4 >= 2 or sub(row, 72, 77) ~= none
      or sub(row, 22, 25) ~= sub(head, 20, 23) then plain = false break end
    if sub(head, 38, 43) ~= none and struct.unpack('<I6', head, 38) <= now then plain = false break end
    seen[id] = true
    if sub(head, 44) ~= said then
      said = sub(head, 44)
      local lease, worker = struct.unpack('<I6Bc0', said)
      ends = now + lease
      -- Changed, started, the end of the lease, and not due any more.
      times, who = pack('<I6I6I6I6', now, now, ends, 0), pack('<Bc0', #worker, worker)
      ends = string.format('%.0f', ends)
    end
    ticket = ticket + 1
    local number, generation, orphaned = pack('<I8', ticket), sub(row, 22, 25), low % 4 >= 2 and 2 or 0
    if low % 64 >= 32 then staged[#staged + 1] = id end
    rows[2 * n] = id
    -- RUNNING; of the flags ORPHANED and DETAILED stay, and its submission is told.
    rows[2 * n + 1] = char(1, 4, orphaned + (low % 16 >= 8 and 8 or 0), high % 2 == 0 and high + 1 or high) .. sub(row, 5, 13) .. number
      .. sub(row, 22, 33) .. generation .. sub(head, 17, 18) .. sub(row, 40, 53) .. times .. sub(row, 78, 105) .. who
      .. sub(row, provider)
    leases[2 * n], leases[2 * n + 1] = ends, id
    answers[n] = 'R' .. number .. generation .. sub(row, 6, 13) .. char(orphaned / 2)
  end
  if plain and total > 0 then
    if #staged > 0 then call('ZREM', base .. 'a', unpack(staged)) end
    call('HSET', unpack(rows))
    call('ZADD', unpack(leases))
    call('HSET', base .. 'n', 'p', (n[3] or 0) - total, 'r', (n[4] or 0) + total, 'ticket', ticket)
    return answers
  end
end
