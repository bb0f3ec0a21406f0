-- Ends claims, where all are completed and nothing is special; where something is, `settle.lua` goes on from the same start.
-- KEYS and ARGV as there. Nothing is special where they come as one argument, nobody watches, every claim is held, and no job has a unique key,
-- was asked to stop, lost a lease or, untracked, has more than its record and status.
-- Answers how many: all are settled.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time. Seven to eleven commands a call, whatever the number of jobs.
if ARGV[2] == '' then
  local call, base, tracked, all = redis.call, KEYS[1], ARGV[1] == '1', ARGV[3]
  local byte, sub, char, pack = string.byte, string.sub, string.char, struct.pack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'r', 'c', 'completed', 'fbytes', 'indexes')
  local ids, places, total, at, length = {}, {}, 0, 1, #all
  while at <= length do
    total = total + 1
    ids[total], places[total] = sub(all, at, at + 15), at
    local a, b, c, d = byte(all, at + 36, at + 39)
    at = at + 40 + a + b * 256 + c * 65536 + d * 16777216
  end
  places[total + 1] = at
  local plain, running, completed = tonumber(n[1] or 0) <= now and (tracked or not n[6]), (n[2] or 0) - total, (n[4] or 0) + total
  local states = call('HMGET', base .. 's', unpack(ids))
  local rows, results, notes = { base .. 's' }, { base .. 'i' }, {}
  local seen, bytes, changed, sizes = {}, 0, pack('<I6', now), {}
  for n = 1, total do
    local id, state, at = ids[n], states[n], places[n]
    -- A job that is RUNNING under this epoch.
    if not plain or not state or seen[id] or byte(state) ~= 4 or sub(state, 12, 19) ~= sub(all, at + 16, at + 23) then
      plain = false
      break
    end
    seen[id] = true
    local flags = byte(state, 2)
    -- Of a tracked job DETAILED and ENDS do not matter: retention sees to both.
    if (flags ~= 0 and not (tracked and (flags == 8 or flags == 32 or flags == 40))) then
      plain = false
      break
    end
    if tracked then
      local a, b, c, d = byte(all, at + 32, at + 35)
      local size, only = a + b * 256 + c * 65536 + d * 16777216, 0
      if size == 0 then size = call('HSTRLEN', base .. 'j', id) end
      local value = places[n + 1] - at - 40
      if value > 0 then
        results[#results + 1] = id .. 'r'
        results[#results + 1] = sub(all, at + 41, places[n + 1] - 1)
        size = size + value - 1
        if flags % 16 < 8 then flags, only = flags + 8, 2 ^ 40 end
      end
      bytes = bytes + size
      -- Where the end of the lease was stands what it holds, and whether of its details there is only a result.
      local holds = sizes[size + only]
      if not holds then
        holds = pack('<I6', size + only)
        sizes[size + only] = holds
      end
      -- Completed now; settled by this epoch with this print.
      rows[2 * n] = id
      rows[2 * n + 1] = char(5, flags) .. sub(state, 3, 25) .. changed .. sub(state, 32, 37) .. holds .. sub(all, at + 16, at + 31)
        .. sub(state, 60)
    else
      notes[n] = sub(all, at, at + 31)
    end
  end
  if plain then
    call('ZREM', base .. 't', unpack(ids))
    if tracked then
      if #results > 1 then call('HSET', unpack(results)) end
      call('HSET', unpack(rows))
      call('RPUSH', base .. 'c', unpack(ids))
      call('HSET', base .. 'n', 'r', running, 'completed', completed, 'c', (n[3] or 0) + total, 'fbytes', (n[5] or 0) + bytes)
    else
      call('HDEL', base .. 'j', unpack(ids))
      call('HDEL', base .. 's', unpack(ids))
      -- What is remembered of these settlements: of many in one entry, which costs a job next to nothing.
      if total >= 16 then
        if call('RPUSH', base .. 'l', table.concat(notes)) > 64 then call('LPOP', base .. 'l') end
      else
        local young = { base .. 'y' }
        for n = 1, total do young[2 * n], young[2 * n + 1] = ids[n], sub(notes[n], 17) end
        call('HSET', unpack(young))
        if call('HLEN', base .. 'y') > 1024 then
          call('UNLINK', base .. 'z')
          call('RENAME', base .. 'y', base .. 'z')
        end
      end
      call('HSET', base .. 'n', 'r', running, 'completed', completed)
    end
    return total
  end
end
