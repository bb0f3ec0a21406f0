-- Lets runs begin, each under all its limits or none.
-- KEYS[1]  the base of the limiter's keys.
-- ARGV: lease in microseconds, then for each: holder and packed needs.
-- Answers two numbers each: 0, or the first need that has no room, from 1; in how many microseconds it is worth looking again, or -1.
-- O(log n) a need; n starts are in its window, or n runs are under way.
local lease, answers = tonumber(ARGV[1]), {}
lapse()

local function acquire(holder, needs)
  local until_ = string.format('%.17g', now + lease)
  if call('HEXISTS', B .. 'p', holder) == 1 then
    call('ZADD', B .. 'l', until_, holder)
    return 0, -1
  end
  local taken, seen = {}, {}
  for n, need in ipairs(needs) do
    local m = meter(need)
    local free, next = room(m)
    if free <= 0 then return n, next or -1 end
    -- Named twice it is one.
    if not seen[need.key] then
      seen[need.key] = true
      taken[#taken + 1] = m
    end
  end
  local permit = {}
  for n, m in ipairs(taken) do permit[n] = { m.key, enter(m), m.sort } end
  call('HSET', B .. 'p', holder, cmsgpack.pack({ now, permit }))
  call('ZADD', B .. 'l', until_, holder)
  return 0, -1
end

for n = 2, #ARGV do
  local refused, next = acquire(ARGV[n]:sub(1, 24), read_needs(ARGV[n], 25))
  answers[#answers + 1], answers[#answers + 2] = refused, next
end
flush()
return answers
