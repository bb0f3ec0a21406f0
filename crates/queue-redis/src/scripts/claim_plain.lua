-- Leases ready jobs, where nothing is special; where something is, `claim.lua` goes on from the same start.
-- KEYS, ARGV and answer as there. Nothing is special where no time has come (delay, lease, expiry), no job went back to the head of its line,
-- nobody watches, and no job among those taken has expired in the line or cannot be read.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time. Ten commands a call or a few more, whatever the number of jobs.
local popped
do
  local call, base, most = redis.call, KEYS[1], tonumber(ARGV[1])
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'paused', 'sleeping', 'p', 'r', 'ticket', 'born')
  if n[2] == '1' then return { -1, 1, 0 } end
  local pending, running = tonumber(n[4] or 0), tonumber(n[5] or 0)
  -- As `tickets` gives them.
  local epoch = math.max(tonumber(n[6] or 0), now * 64)
  local first = call('ZRANGE', base .. 't', 0, 0, 'WITHSCORES')[2]
  local plain = n[7] == ARGV[6] and tonumber(n[1] or 0) <= now and not (first and tonumber(first) <= now)
    and (call('EXISTS', base .. 'h', base .. 'x') == 0 or call('EXISTS', base .. 'h') == 0 and call('ZCOUNT', base .. 'x', '-inf', now) == 0)
  if plain then
    local r, ids = base .. 'r', nil
    repeat
      local lane = call('LMPOP', 15, r .. 15, r .. 14, r .. 13, r .. 12, r .. 11, r .. 10, r .. 9, r .. 8, r .. 7, r .. 6, r .. 5, r .. 4,
        r .. 3, r .. 2, r .. 1, 'LEFT', 'COUNT', most - (ids and #ids or 0))
      if lane and ids then
        for _, id in ipairs(lane[2]) do ids[#ids + 1] = id end
      elseif lane then
        ids = lane[2]
      end
      -- Another lane is asked only where there is more; of those counted as pending some may be parked.
    until not lane or #ids >= math.min(most, pending)
    if not ids then
      if tonumber(ARGV[5]) > 0 then call('HSET', base .. 'n', 'sleeping', now + ARGV[5]) end
      return { first and first - now or -1, 0, 0 }
    end
    local records, states = call('HMGET', base .. 'j', unpack(ids)), call('HMGET', base .. 's', unpack(ids))
    local pack, byte, sub, char = struct.pack, string.byte, string.sub, string.char
    local worker, ends = ARGV[3], now + ARGV[2]
    -- A status from its last times on: changed, started, end of the lease; then its last settlement, here none yet, and worker.
    local times, who = pack('<I6I6I6', now, now, ends), pack('<Bc0', #worker, worker)
    local tail = times .. pack('<I8I8', 0, 0) .. who
    local once, first_attempt = pack('<I2I2', 1, 0), pack('<I4I4', 1, 0)
    local answer, rows, leases, taken, seen, heads = { -1, 0, epoch }, { base .. 's' }, { base .. 't' }, 0, {}, {}
    for n = 1, #ids do
      local id, record, state = ids[n], records[n], states[n]
      -- What was cancelled, purged or forgotten since it lined up is passed over.
      if record and not seen[id] then
        -- The shortest record and status there are; what is shorter nobody wrote here.
        if #record < 26 or byte(record) ~= 1 or state and #state < 60 then
          plain = false
          break
        end
        local _, flags, priority = byte(record, 1, 3)
        if priority == 0 or priority > 15 or flags % 2 == 1 and struct.unpack('<I6', record, 20) <= now then
          plain = false
          break
        end
        local fence, head, claim, tail = epoch + taken + 1, nil, id, tail
        if not state then
          local attempts = sub(record, 16, 19)
          if flags >= 4 then
            head = nil
          elseif attempts == once then
            -- What it was submitted with, of the flags two, moved to where a status has them.
            head = heads[flags * 16 + priority]
            if not head then
              head = char(4, flags * 32, priority) .. first_attempt
              heads[flags * 16 + priority] = head
            end
          else
            head = char(4, flags * 32, priority) .. pack('<I4I4', struct.unpack('<I2I2', attempts))
          end
        else
          local was, flags, level = byte(state, 1, 3)
          if was == 0 or was > 8 or level == 0 or level > 15 then
            plain = false
            break
          end
          if was == 1 and flags % 32 < 16 then
            -- Its start is not marked yet: MARKED is the lowest bit, ORPHANED the next.
            local attempts = sub(state, 4, 11)
            head = char(4, flags - flags % 2, priority) .. attempts
            -- Whoever lost the answer to the last settlement may ask for it again.
            tail = times .. sub(state, 44, 59) .. who
            claim = id .. pack('<I8', fence) .. attempts .. char(flags % 4 >= 2 and 1 or 0)
          end
        end
        if head then
          seen[id] = true
          taken = taken + 1
          rows[2 * taken], rows[2 * taken + 1] = id, head .. pack('<I8I6', fence, fence) .. tail
          leases[2 * taken], leases[2 * taken + 1] = ends, id
          answer[2 * taken + 2], answer[2 * taken + 3] = claim, record
        end
      end
    end
    if plain and taken > 0 then
      call('HSET', unpack(rows))
      call('ZADD', unpack(leases))
      call('HSET', base .. 'n', 'p', pending - taken, 'r', running + taken, 'ticket', epoch + taken)
      -- What it left is for somebody else.
      if taken == most and tonumber(n[3] or 0) > now then call('ZADD', base .. 'm', 0, '0') end
      return answer
    end
    popped = ids
  end
end
