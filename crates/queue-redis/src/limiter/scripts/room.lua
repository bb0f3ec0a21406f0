-- How much room limits have, each asked for alone.
-- KEYS[1]  the base of the limiter's keys.
-- ARGV: packed needs.
-- Answers three numbers each: how many runs; in how many microseconds it is worth looking again, or -1; a breaker's state, or 0.
-- O(log n) each; n starts are in its window.
lapse()
local answers = {}
for _, text in ipairs(ARGV) do
  local need = read_needs(text, 1)[1]
  local m = known(need.key) and meter(need) or fresh(need.key, need)
  local free, next = room(m)
  answers[#answers + 1], answers[#answers + 2], answers[#answers + 3] = math.min(free, MANY), next or -1, m.state or 0
end
flush()
return answers
