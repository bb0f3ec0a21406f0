-- Ends runs.
-- KEYS[1]  the base of the limiter's keys.
-- ARGV: for each: holder and how it ended.
-- Answers 1.
-- O(log n) a need; n starts are in its window, or n runs are under way.
-- What makes room must be possible where memory has none left: Redis refuses a script only until it has written.
call('HDEL', B .. 'p', '')
lapse()
for _, ended in ipairs(ARGV) do finish(ended:sub(1, 24), ended:byte(25)) end
flush()
return 1
