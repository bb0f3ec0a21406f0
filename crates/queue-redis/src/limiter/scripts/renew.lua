-- Keeps what holders have.
-- KEYS[1]  the base of the limiter's keys.
-- ARGV: lease in microseconds, then the holders.
-- Answers 1.
-- O(log n) each; n runs are under way.
lapse()
for n = 2, #ARGV do call('ZADD', B .. 'l', 'XX', string.format('%.17g', now + tonumber(ARGV[1])), ARGV[n]) end
flush()
return 1
