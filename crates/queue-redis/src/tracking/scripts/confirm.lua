-- The transport has these copies. One that is not the newest changes nothing.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: for each: packed id, generation and place.
-- Answers how many.
-- O(log n) each; n jobs are staged.
advance(100)
local ids = {}
for n = 1, #ARGV do ids[n] = ARGV[n]:sub(1, 16) end
load(ids)
for n, id in ipairs(ids) do
  local generation, place = unpick('<I4I2', ARGV[n], 17)
  local s = rows[id]
  if is_staged(s, generation) then
    s.place = place
    sent(s)
    announce(s)
  end
end
flush()
return #ids
