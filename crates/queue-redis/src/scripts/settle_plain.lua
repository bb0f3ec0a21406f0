-- Ends claims, where all are completed and nothing is special; where something is, `settle.lua` goes on from the same start.
-- KEYS and ARGV as there. Nothing is special where no follow-up comes after, nobody watches, every claim is held, and no job has a unique key,
-- was asked to stop, lost a lease or, untracked, has more than its record and status.
-- Answers how many: all are settled.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time. Seven to eleven commands a call, whatever the number of jobs.
if ARGV[2] == '0' then
  local call, base, tracked, total = redis.call, KEYS[1], ARGV[1] == '1', (#ARGV - 2) / 2
  local byte, sub, char, pack, unpick = string.byte, string.sub, string.char, struct.pack, struct.unpack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'r', 'c', 'completed', 'fbytes', 'indexes')
  local plain, running, completed = tonumber(n[1] or 0) <= now and (tracked or not n[6]), (n[2] or 0) - total, (n[4] or 0) + total
  local ids = {}
  for n = 1, total do ids[n] = ARGV[2 * n + 1] end
  local states = call('HMGET', base .. 's', unpack(ids))
  local finished, leases, rows, results, notes = { base .. 'c' }, { base .. 't' }, { base .. 's' }, { base .. 'i' }, { base .. 'y' }
  local seen, bytes, changed = {}, 0, pack('<I6', now)
  for n = 1, total do
    local id, state, head = ids[n], states[n], ARGV[2 * n + 2]
    -- COMPLETE, of a job that is RUNNING under this epoch.
    if not plain or not state or seen[id] or byte(head, 9) ~= 1 or byte(state) ~= 4 or sub(state, 12, 19) ~= sub(head, 1, 8) then
      plain = false
      break
    end
    seen[id] = true
    local flags, result = byte(state, 2), #head > 29
    -- Of a tracked job DETAILED and ENDS do not matter: retention sees to both.
    if (flags ~= 0 and not (tracked and (flags == 8 or flags == 32 or flags == 40))) then
      plain = false
      break
    end
    finished[n + 1], leases[n + 1] = id, id
    if tracked then
      local size, only = unpick('<I4', head, 26), 0
      if size == 0 then size = call('HSTRLEN', base .. 'j', id) end
      if result then
        results[#results + 1] = id .. 'r'
        results[#results + 1] = sub(head, 31)
        size = size + #head - 30
        if flags % 16 < 8 then flags, only = flags + 8, 2 ^ 40 end
      end
      bytes = bytes + size
      -- Completed now; where the end of the lease was stands what it holds, and whether of its details there is only a result; settled by
      -- this epoch with this print.
      rows[2 * n] = id
      rows[2 * n + 1] = char(5, flags) .. sub(state, 3, 25) .. changed .. sub(state, 32, 37) .. pack('<I6', size + only) .. sub(head, 1, 8)
        .. sub(head, 10, 17) .. sub(state, 60)
    else
      notes[2 * n] = id
      notes[2 * n + 1] = sub(head, 1, 8) .. sub(head, 10, 17)
    end
  end
  if plain then
    call('ZREM', unpack(leases))
    if tracked then
      if #results > 1 then call('HSET', unpack(results)) end
      call('HSET', unpack(rows))
      call('RPUSH', unpack(finished))
      call('HSET', base .. 'n', 'r', running, 'completed', completed, 'c', (n[3] or 0) + total, 'fbytes', (n[5] or 0) + bytes)
    else
      finished[1] = base .. 'j'
      call('HDEL', unpack(finished))
      finished[1] = base .. 's'
      call('HDEL', unpack(finished))
      call('HSET', unpack(notes))
      if call('HLEN', base .. 'y') > 1024 then
        call('UNLINK', base .. 'z')
        call('RENAME', base .. 'y', base .. 'z')
      end
      call('HSET', base .. 'n', 'r', running, 'completed', completed)
    end
    return total
  end
end
