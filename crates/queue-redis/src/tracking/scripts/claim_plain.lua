-- Judges copies that the transport delivered, where all of them may run and nothing is special; where something is, `claim.lua` does it, and
-- nothing has been written.
-- KEYS[1]  as there.
-- ARGV: as there.
-- Answers one string: P, the first ticket, which those of the others follow, and of each the rest of its packed claim.
-- Nothing is special where no time has come (delay, expiry), nobody watches, and every copy is that of a pending job as it is known here,
-- which nobody parked or asked to stop.
-- O(1) a job, O(log n) for its lease and its line; n jobs run, are pending, staged or wait for a time. Nine commands a call or ten, whatever
-- the number of jobs.
do
  local call, base = redis.call, KEYS[1]
  local byte, sub, char, pack = string.byte, string.sub, string.char, struct.pack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'ticket', 'p', 'r')
  local all = ARGV[2]
  local plain = #ARGV == 2 and tonumber(n[1] or 0) <= now and #call('ZRANGEBYSCORE', base .. 't', '-inf', now, 'LIMIT', 0, 1) == 0
    and #call('ZRANGEBYSCORE', base .. 'x', '-inf', now, 'LIMIT', 0, 1) == 0
  local total, ids, found = #all / 43, {}, nil
  if plain then
    for n = 1, total do ids[n] = sub(all, 43 * n - 42, 43 * n - 27) end
    found = call('HMGET', base .. 's', unpack(ids))
  end
  -- As `next_ticket` gives them.
  local first, none = math.max(tonumber(n[2] or 0), now * 4) + 1, string.rep('\0', 6)
  local rows, leases, staged, answers, seen = { base .. 's' }, { base .. 'l' }, {}, {}, {}
  local lease, worker = struct.unpack('<I6Bc0', ARGV[1])
  -- Changed, started, the end of the lease, and not due any more.
  local times, who = pack('<I6I6I6I6', now, now, now + lease, 0), pack('<Bc0', #worker, worker)
  local ends = string.format('%.0f', now + lease)
  for n = 1, plain and total or 0 do
    local id, row, at = ids[n], found[n], 43 * n - 43
    -- The shortest row there is; PENDING, of this version.
    if not row or #row < 111 or seen[id] then plain = false break end
    local provider = 107 + byte(row, 106)
    if #row ~= provider + 4 + (byte(row, provider) or 0) then plain = false break end
    local version, state, low, high = byte(row, 1, 4)
    -- Not MARKED, CANCELLING, PARKED, OUTLIVED; due at once; and of the same generation as the copy.
    if version ~= 1 or state ~= 1 or low % 2 == 1 or low % 8 >= 4 or low % 32 >= 16 or high % 4 >= 2 or sub(row, 72, 77) ~= none
      or sub(row, 22, 25) ~= sub(all, at + 20, at + 23) then plain = false break end
    if sub(all, at + 38, at + 43) ~= none and struct.unpack('<I6', all, at + 38) <= now then plain = false break end
    seen[id] = true
    local generation, orphaned = sub(row, 22, 25), low % 4 >= 2 and 2 or 0
    if low % 64 >= 32 then staged[#staged + 1] = id end
    rows[2 * n] = id
    -- RUNNING; of the flags ORPHANED and DETAILED stay, and its submission is told.
    rows[2 * n + 1] = char(1, 4, orphaned + (low % 16 >= 8 and 8 or 0), high % 2 == 0 and high + 1 or high) .. sub(row, 5, 13)
      .. pack('<I8', first + n - 1) .. sub(row, 22, 33) .. generation .. sub(all, at + 17, at + 18) .. sub(row, 40, 53) .. times
      .. sub(row, 78, 105) .. who .. sub(row, provider)
    leases[2 * n], leases[2 * n + 1] = ends, id
    answers[n] = generation .. sub(row, 6, 13) .. char(orphaned / 2)
  end
  if plain and total > 0 then
    if #staged > 0 then call('ZREM', base .. 'a', unpack(staged)) end
    call('ZREM', base .. 'o', unpack(ids))
    call('HSET', unpack(rows))
    call('ZADD', unpack(leases))
    call('HSET', base .. 'n', 'p', (n[3] or 0) - total, 'r', (n[4] or 0) + total, 'ticket', first + total - 1)
    return { 'P' .. pack('<I8', first) .. table.concat(answers) }
  end
end
