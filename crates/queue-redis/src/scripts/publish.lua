-- Takes jobs in.
-- ARGV: max_len, then for each job its packed head and its body.
-- Answers one string a job: A accepted, F full, D and the 16 bytes of the id that holds its unique key.
-- O(1) a job, O(log n) for a delayed one; n jobs wait for a time.
local new = {}
for n = 2, #ARGV, 2 do new[#new + 1] = read_new(ARGV[n], ARGV[n + 1]) end
local answers = admit(new, tonumber(ARGV[1]), false)
flush()
return answers
