-- Takes jobs in.
-- KEYS[1]  the base of the queue's keys.
-- ARGV: max_len; the head that all jobs share, without the id, or nothing; then for each job its packed head (its id, where they share the
-- rest) and its body; last the incarnation of the queue for which they are meant.
-- Answers one string a job: A accepted, F full, D and the 16 bytes of the id that holds its unique key; or just how many, where all are accepted.
-- O(1) a job, O(log n) for a delayed one; n jobs wait for a time.
if born ~= ARGV[#ARGV] then return STALE end
local new = {}
for n = 3, #ARGV - 1, 2 do new[#new + 1] = read_new(ARGV[n] .. ARGV[2], ARGV[n + 1]) end
local answers = admit(new, tonumber(ARGV[1]), false)
flush()
return answers
