-- Ends claims, where all are completed and nothing is special; where something is, `settle.lua` goes on from the same start.
-- KEYS[1]  as there.
-- ARGV: as there.
-- Nothing is special where they come in groups, nobody watches, every claim is held, and no job has a unique key,
-- was asked to stop, lost a lease or, untracked, has more than its record and status.
-- Answers how many: all are settled.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time. Seven to eleven commands a call, and three for each claim of which
-- some are settled, whatever the number of jobs.
if ARGV[2] == '' then
  local call, base, tracked = redis.call, KEYS[1], ARGV[1] == '1'
  local byte, sub, char, pack = string.byte, string.sub, string.char, struct.pack
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'r', 'c', 'completed', 'fbytes', 'indexes')
  local watched, runs, ran = tonumber(n[1] or 0), tonumber(n[2] or 0), tonumber(n[4] or 0)
  local over, held_bytes = tonumber(n[3] or 0), tonumber(n[5] or 0)
  local plain = watched and runs and ran and over and held_bytes and watched <= now and (tracked or not n[6])
  local ids, notes, total, rows, results, bytes, seen = {}, {}, 0, { base .. 's' }, { base .. 'i' }, 0, {}
  local changed, sizes, untimed, left, apart = pack('<I6', now), {}, { base .. 't' }, {}, false
  for g = 3, #ARGV, 4 do
    local key, group, extras, at = ARGV[g], ARGV[g + 2], ARGV[g + 3], 1
    local count = #group / 32
    local before = total
    for n = 1, count do ids[before + n] = sub(group, 32 * n - 31, 32 * n - 16) end
    -- Claimed together, and nobody has looked at them since: as `unfold` would read it.
    local row = key ~= '' and call('HGET', base .. 'q', key)
    local states, places, held, many, who, first, middle
    if row then
      who = sub(row, 15, 15 + (byte(row, 15) or 0))
      first = 15 + #who
      many = byte(row, first) or 0
      -- A newer version may have written it, or a hand.
      if byte(row) ~= 1 or #row ~= first + 17 * many then row = nil end
    end
    if row then
      places, held = { byte(ARGV[g + 1], 1, count) }, { byte(row, first + 1, first + many) }
      first = first + many
      middle = char(byte(row, 2), 1, 0, 0, 0, 0, 0, 0, 0)
    else
      apart = true
      states = call('HMGET', base .. 's', unpack(ids, before + 1, before + count))
    end
    for n = 1, count do
      local id, state, flags = ids[before + n], nil, 0
      if row then
        local place = places[n]
        if held[place] ~= 1 or sub(row, first + 16 * place - 15, first + 16 * place) ~= id then
          plain = false
          break
        end
        held[place] = 0
      else
        state = states[n]
        -- A job that is RUNNING under this epoch.
        if not state or seen[id] or byte(state) ~= 4 or sub(state, 12, 19) ~= sub(group, 32 * n - 15, 32 * n - 8) then
          plain = false
          break
        end
        seen[id] = true
        flags = byte(state, 2)
        -- Of a tracked job DETAILED and ENDS do not matter: retention sees to both.
        if flags ~= 0 and not (tracked and (flags == 8 or flags == 32 or flags == 40)) then
          plain = false
          break
        end
        untimed[#untimed + 1] = id
      end
      if tracked then
        local a, b, c, d, e, f, g, h = byte(extras, at, at + 7)
        local size, only, value = a + b * 256 + c * 65536 + d * 16777216, 0, e + f * 256 + g * 65536 + h * 16777216
        if size == 0 then size = call('HSTRLEN', base .. 'j', id) end
        if value > 0 then
          results[#results + 1] = id .. 'r'
          results[#results + 1] = sub(extras, at + 9, at + 7 + value)
          size = size + value - 1
          if flags % 16 < 8 then flags, only = flags + 8, 2 ^ 40 end
        end
        at = at + 8 + value
        bytes = bytes + size
        -- Where the end of the lease was stands what it holds, and whether of its details there is only a result.
        local holds = sizes[size + only]
        if not holds then
          holds = pack('<I6', size + only)
          sizes[size + only] = holds
        end
        -- Completed now; settled by this epoch with this print.
        local place, mark = 2 * (before + n), sub(group, 32 * n - 15, 32 * n)
        rows[place] = id
        if row then
          rows[place + 1] = char(5, flags) .. middle .. sub(mark, 1, 8) .. sub(mark, 1, 6) .. changed .. sub(row, 3, 8) .. holds .. mark .. who
        else
          rows[place + 1] = char(5, flags) .. sub(state, 3, 25) .. changed .. sub(state, 32, 37) .. holds .. mark .. sub(state, 60)
        end
      end
    end
    if not plain then break end
    total = before + count
    notes[#notes + 1] = group
    if row then
      local rest = char(unpack(held))
      if rest:find('\1', 1, true) then
        left[#left + 1], left[#left + 2] = key, sub(row, 1, first - many) .. rest .. sub(row, first + 1)
      else
        left[#left + 1], left[#left + 2] = key, false
        untimed[#untimed + 1] = 'claim:' .. key
      end
    end
  end
  if plain then
    for n = 1, #left, 2 do
      if left[n + 1] then call('HSET', base .. 'q', left[n], left[n + 1]) else call('HDEL', base .. 'q', left[n]) end
    end
    if #untimed > 1 then call('ZREM', unpack(untimed)) end
    local running, completed = runs - total, ran + total
    if tracked then
      if #results > 1 then call('HSET', unpack(results)) end
      call('HSET', unpack(rows))
      call('RPUSH', base .. 'c', unpack(ids))
      call('HSET', base .. 'n', 'r', running, 'completed', completed, 'c', over + total, 'fbytes', held_bytes + bytes)
    else
      call('HDEL', base .. 'j', unpack(ids))
      if apart then call('HDEL', base .. 's', unpack(ids)) end
      -- What is remembered of these settlements: of many in one entry, which costs a job next to nothing.
      if total >= 16 then
        if call('RPUSH', base .. 'l', table.concat(notes)) > 64 then call('LPOP', base .. 'l') end
      else
        local all, young = table.concat(notes), { base .. 'y' }
        for n = 1, total do young[2 * n], young[2 * n + 1] = ids[n], sub(all, 32 * n - 15, 32 * n) end
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
