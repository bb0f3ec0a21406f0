-- The numbers of a queue.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: nothing.
-- Answers { paused, pending, parked, scheduled, retrying, running, dead, finished, submitted, completed, failed }.
-- O(1).
advance(100)
flush()
return call('HMGET', B .. 'n', 'paused', 'p', 'k', 's', 't', 'r', 'd', 'c', 'submitted', 'completed', 'failed')
