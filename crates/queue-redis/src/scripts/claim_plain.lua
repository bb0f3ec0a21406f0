-- Leases ready jobs, where nothing is special; where something is, `claim.lua` goes on from the same start.
-- KEYS[1]  as there.
-- ARGV: as there.
-- Answers as there.
-- Nothing is special where no time has come (delay, lease, expiry), no job went back to the head of its line,
-- nobody watches, and no job among those taken has expired in the line or cannot be read.
-- Where nothing ever happened to any of many, they have one row and one lease together (`q`): two commands instead of two a job. Whoever
-- looks closer at one of them makes rows of it (`unfold`). In doubt whether an id stands in line twice each gets its own at once.
-- O(1) a job, O(log n) for its lease; n jobs are leased or wait for a time. Ten commands a call or a few more, whatever the number of jobs.

-- Bytes of records in one answer, unless its first job has more: a longer one would keep everybody else waiting.
local BYTES = 4194304
-- So many jobs at least have one row together.
local MANY = 16
-- Ids taken from their lines, and which: { up to which of the ids, the line }.
local popped, lines

-- Puts those from the given one on back to the front of their lines, in their order.
local function give_back(ids, from, lines)
  for line = #lines, 1, -1 do
    local before = line > 1 and lines[line - 1][1] or 0
    for n = lines[line][1], math.max(before + 1, from), -1 do redis.call('LPUSH', lines[line][2], ids[n]) end
  end
end

do
  local call, base, most = redis.call, KEYS[1], tonumber(ARGV[1])
  local clock = call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local n = call('HMGET', base .. 'n', 'watched', 'paused', 'sleeping', 'p', 'r', 'ticket', 'born', 'tick', 'doubt')
  if n[2] == '1' then
    -- However long the pause lasts: of those that sleep each is woken when it ends.
    if tonumber(ARGV[5]) > 0 then call('HSET', base .. 'n', 'sleeping', now + ARGV[5]) end
    return { -1, 1, 0 }
  end
  -- A hand may have written anything: nothing is taken from a line before it is known that all can be reckoned with.
  local watched, asleep, pending, running = tonumber(n[1] or 0), tonumber(n[3] or 0), tonumber(n[4] or 0), tonumber(n[5] or 0)
  local last, tick = tonumber(n[6] or 0), tonumber(n[8] or 0)
  -- As `tickets` gives them.
  local epoch = math.max(last or 0, now * 64)
  local first = call('ZRANGE', base .. 't', '0', '0', 'WITHSCORES')[2]
  local plain = n[7] == ARGV[6] and watched and asleep and pending and running and last and tick and watched <= now and not (first and tonumber(first) <= now)
    and (call('EXISTS', base .. 'h', base .. 'x') == 0 or call('EXISTS', base .. 'h') == 0 and call('ZCOUNT', base .. 'x', '-inf', now) == 0)
  if plain then
    local r, ids = base .. 'r', nil
    lines = {}
    repeat
      local lane = call('LMPOP', '15', r .. '15', r .. '14', r .. '13', r .. '12', r .. '11', r .. '10', r .. '9', r .. '8', r .. '7', r .. '6',
        r .. '5', r .. '4', r .. '3', r .. '2', r .. '1', 'LEFT', 'COUNT', most - (ids and #ids or 0))
      if lane and ids then
        for _, id in ipairs(lane[2]) do ids[#ids + 1] = id end
      elseif lane then
        ids = lane[2]
      end
      if lane then lines[#lines + 1] = { #ids, lane[1] } end
      -- Another lane is asked only where there is more; of those counted as pending some may be parked.
    until not lane or #ids >= math.min(most, pending)
    if not ids then
      -- In empty lines nothing stands twice.
      if n[9] then call('HDEL', base .. 'n', 'doubt') end
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
    -- A number would be written out anew for each.
    ends = string.format('%.0f', ends)
    local answer, taken, seen, heads = { first and first - now or -1, 0, epoch, '' }, 0, {}, {}
    -- Of those taken: ids, claims, and their statuses up to the epoch and from the last times on.
    local chosen, claims, starts, tails = {}, {}, {}, {}
    -- What all begin with, while nothing ever happened to any and they are alike.
    local shared, folds = nil, not n[9]
    local bytes, beyond = 0, #ids + 1
    for n = 1, #ids do
      local id, record, state = ids[n], records[n], states[n]
      -- What was cancelled, purged or forgotten since it lined up is passed over.
      if record and not seen[id] then
        local size = #record
        -- The shortest record and status there are; what is shorter nobody wrote here.
        if size < 26 or byte(record) ~= 1 or state and #state < 60 then
          plain = false
          break
        end
        if taken > 0 and bytes + size > BYTES then
          beyond = n
          break
        end
        local _, flags, priority = byte(record, 1, 3)
        if priority == 0 or priority > 15 or flags % 2 == 1 and struct.unpack('<I6', record, 20) <= now then
          plain = false
          break
        end
        local head, claim, tail = nil, '\0', tail
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
              folds = folds and flags == 0 and not shared
              shared = head
            end
          else
            head = char(4, flags * 32, priority) .. pack('<I4I4', struct.unpack('<I2I2', attempts))
            folds = false
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
            claim = pack('<BI8', 1, epoch + taken + 1) .. attempts .. char(flags % 4 >= 2 and 1 or 0)
            folds = false
          end
        end
        if head then
          seen[id] = true
          taken = taken + 1
          bytes = bytes + size
          chosen[taken], claims[taken], starts[taken], tails[taken] = id, claim, head, tail
          answer[taken + 4] = record
        end
      end
    end
    if plain and taken > 0 then
      if folds and taken >= MANY and taken < 256 then
        -- As `unfold` reads it: version, priority, start, end, worker, how many, of each whether it is held, ids.
        local key, all = string.format('%.0f', epoch), table.concat(chosen)
        call('HSET', base .. 'q', key, char(1, byte(shared, 3)) .. pack('<I6I6', now, now + ARGV[2]) .. who .. char(taken)
          .. string.rep('\1', taken) .. all)
        call('ZADD', base .. 't', ends, 'claim:' .. key)
        answer[2], answer[4] = 2, all
      else
        local rows, leases, told = { base .. 's' }, {}, {}
        for n = 1, taken do
          local id, fence, two = chosen[n], epoch + n, 2 * n
          rows[two], rows[two + 1] = id, starts[n] .. pack('<I8I6', fence, fence) .. tails[n]
          leases[two + 2], leases[two + 3] = ends, id
          told[two - 1], told[two] = id, claims[n]
        end
        call('HSET', unpack(rows))
        -- A set that is new and small would be kept as one string, through which Redis goes for each entry. It is not where the first is long.
        if first or taken < 16 then
          -- To where it ends: with nothing in its first places the length of a table is anything.
          leases[3] = base .. 't'
          call('ZADD', unpack(leases, 3, 2 * taken + 3))
        else
          local long = string.rep('-', 65)
          leases[1], leases[2], leases[3] = base .. 't', ends, long
          call('ZADD', unpack(leases, 1, 2 * taken + 3))
          call('ZREM', base .. 't', long)
        end
        answer[4] = table.concat(told)
      end
      call('HSET', base .. 'n', 'p', pending - taken, 'r', running + taken, 'ticket', epoch + taken)
      give_back(ids, beyond, lines)
      -- What it left is for somebody else. Where some were passed over it may not have asked all lines.
      if (taken == most or taken < #ids) and asleep > now then call('ZADD', base .. 'm', '0', '0') end
      -- Who maintains the queue is called: it rests no more.
      if tick > now then
        call('ZADD', base .. 'v', '0', '0')
        call('HDEL', base .. 'n', 'tick')
      end
      return answer
    end
    popped = ids
  end
end
