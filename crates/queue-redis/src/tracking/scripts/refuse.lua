-- Buries what the transport refuses for good.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: for each: packed id and generation; its error.
-- Answers 1.
-- O(log n) each; n jobs are staged, or dead.
advance(100)
for n = 1, #ARGV, 2 do
  local s = find(ARGV[n]:sub(1, 16))
  if is_staged(s, (unpick('<I4', ARGV[n], 17))) then
    announce(s)
    fail(s, ARGV[n + 1])
    finish(s, DEAD)
  end
end
flush()
return 1
