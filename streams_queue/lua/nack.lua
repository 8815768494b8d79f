--!include tally time entry frame fence
-- The event failed, or belongs to a newer release: hand it out again later, or at once when the delay is 0.
-- KEYS: 1 stream, 2 delayed, 3 stats
-- ARGV: 1 group, 2 consumer, 3 entry id, 4 delivery count of the pending entry, 5 delay in ms,
--       6 '1' to count this delivery, '0' to leave all fields as they were
-- Returns: held (done) | lost | gone
-- Cost: O(log events)
-- Idempotent: a second copy finds the entry gone
redis.call('ZCARD', KEYS[2])
redis.call('HGET', KEYS[3], 'retried')
local state = holder(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if state ~= 'held' then
  return state
end
local fields = take(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not fields then
  remove(KEYS[1], ARGV[1], ARGV[3])
  tally(KEYS[3], 'lost', 1)
  return 'gone'
end
if ARGV[6] == '1' then
  fields = with_deliveries(fields, earlier_deliveries(fields) + tonumber(ARGV[4]))
  tally(KEYS[3], 'retried', 1)
end
if tonumber(ARGV[5]) > 0 then
  redis.call('ZADD', KEYS[2], time_ms() + tonumber(ARGV[5]), frame(ARGV[3] .. '-' .. ARGV[4], fields))
else
  append(KEYS[1], fields)
end
remove(KEYS[1], ARGV[1], ARGV[3])
return 'held'
