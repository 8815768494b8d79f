--!include fence
-- Renew leases: reset the idle time of pending entries that are still held as they were handed out; never steal back.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 consumer, then per event: entry id, delivery count of the pending entry
-- Returns: per event: held (renewed) | lost | gone
-- Cost: O(events)
-- Idempotent: yes
local states = {}
for i = 3, #ARGV, 2 do
  local state = holder(KEYS[1], ARGV[1], ARGV[2], ARGV[i], ARGV[i + 1])
  if state == 'held' then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
  states[#states + 1] = state
end
return states
