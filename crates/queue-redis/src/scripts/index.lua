-- Has a queue keep indexes from now on; ticks fill them with what is there already.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: which: `k` kinds, `o` tenants, `t` tags, in this order; nothing for none.
-- Answers 1 where that is news.
-- O(n) for n terms that were indexed before.
if (indexes or '') == ARGV[1] then return 0 end
call('HDEL', B .. 'n', 'indexes', 'indexed', 'fill')
for _, term in ipairs(call('SMEMBERS', B .. 'ix')) do call('UNLINK', B .. term) end
call('UNLINK', B .. 'ix')
if ARGV[1] ~= '' then call('HSET', B .. 'n', 'indexes', ARGV[1], 'fill', 0) end
-- Who maintains the queue fills them.
if resting then
  call('ZADD', B .. 'v', 0, '0')
  call('HDEL', B .. 'n', 'tick')
end
return 1
