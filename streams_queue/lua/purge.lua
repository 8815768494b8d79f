--!include tally time entry frame dead group
-- Move waiting and delayed events to the dead letters, reason `purged`. Events in flight are not touched.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group, 2 most events to move, 3 dead max_size, 4 dead when_full
-- Returns: {moved, 1 if the dead letters are full}
-- Cost: O(events moved)
-- Idempotent: yes
redis.call('ZCARD', KEYS[2])
redis.call('HGET', KEYS[4], 'purged')
local limit, dead_max, when_full, now = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], time_ms()
local moved, full = 0, 0

local function move(fields, enqueued_ms)
  if not dead_has_room(KEYS[3], dead_max, when_full) then
    full = 1
    return false
  end
  add_dead(KEYS[3], KEYS[4], dead_max, when_full, fields, 'purged', '', earlier_deliveries(fields), enqueued_ms, now)
  moved = moved + 1
  return true
end

local last_delivered = group_info(KEYS[1], ARGV[1])['last-delivered-id']
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. last_delivered, '+', 'COUNT', limit)) do
  if full == 0 and move(entry[2], entry_ms(entry[1])) then
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
if moved < limit then
  for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, limit - moved - 1)) do
    if full == 0 and move(unframe(member) or { 'payload', member }, now) then
      redis.call('ZREM', KEYS[2], member)
    end
  end
end
if moved > 0 then
  tally(KEYS[4], 'purged', moved)
end
return { moved, full }
