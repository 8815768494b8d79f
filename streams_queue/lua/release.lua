--!include tally entry frame fence
-- Give events back untouched: available at once, at the end of the line. A new entry wakes blocked readers, which an
-- aged pending entry never does.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, 2 consumer, then per event: entry id, delivery count of the pending entry
-- Returns: per event: held (done) | lost | gone
-- Cost: O(events)
-- Idempotent: a second copy finds the entries gone
redis.call('HGET', KEYS[2], 'released')
local states, released = {}, 0
for i = 3, #ARGV, 2 do
  local id, count = ARGV[i], ARGV[i + 1]
  local state = holder(KEYS[1], ARGV[1], ARGV[2], id, count)
  if state == 'held' then
    local fields = take(KEYS[1], ARGV[1], ARGV[2], id)
    if fields then
      append(KEYS[1], with_deliveries(fields, earlier_deliveries(fields) + tonumber(count) - 1))
      released = released + 1
    else
      tally(KEYS[2], 'lost', 1)
      state = 'gone'
    end
    remove(KEYS[1], ARGV[1], id)
  end
  states[#states + 1] = state
end
if released > 0 then
  tally(KEYS[2], 'released', released)
end
return states
