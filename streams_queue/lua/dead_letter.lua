--!include tally time entry frame dead fence
-- Never hand the event out again: move it to the dead letters. When they are full and refuse, it stays delayed instead.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group, 2 consumer, 3 entry id, 4 delivery count of the pending entry, 5 reason, 6 error,
--       7 dead max_size, 8 dead when_full, 9 max_delay in ms
-- Returns: held (done) | refused (dead letters are full, the event is delayed) | lost | gone
-- Cost: O(log events)
-- Idempotent: a second copy finds the entry gone
redis.call('ZCARD', KEYS[2])
redis.call('XLEN', KEYS[3])
redis.call('HGET', KEYS[4], 'dead')
local state = holder(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
if state ~= 'held' then
  return state
end
local fields = take(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
if not fields then
  remove(KEYS[1], ARGV[1], ARGV[3])
  tally(KEYS[4], 'lost', 1)
  return 'gone'
end
local deliveries = earlier_deliveries(fields) + tonumber(ARGV[4])
if dead_has_room(KEYS[3], tonumber(ARGV[7]), ARGV[8]) then
  add_dead(KEYS[3], KEYS[4], tonumber(ARGV[7]), ARGV[8], fields, ARGV[5], ARGV[6],
    deliveries, entry_ms(ARGV[3]), time_ms())
else
  state = 'refused'
  redis.call('ZADD', KEYS[2], time_ms() + tonumber(ARGV[9]),
    frame(ARGV[3] .. '-' .. ARGV[4], with_deliveries(fields, deliveries)))
end
remove(KEYS[1], ARGV[1], ARGV[3])
return state
