--!include time fence pulse
-- Renew leases: reset the idle time of pending entries that are still held as they were handed out; never steal back.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, 2 consumer, 3 lease in ms, then per event: entry id, delivery count of the pending entry
-- Returns: per event: held (renewed) | lost | gone
-- Cost: O(events)
-- Idempotent: yes
local alive, hold = pulse_of(KEYS[2])
redis.call('XPENDING', KEYS[1], ARGV[1])
leave_pulse(KEYS[2], alive, hold, time_ms(), tonumber(ARGV[3]))
local states = {}
for i = 4, #ARGV, 2 do
  local state = holder(KEYS[1], ARGV[1], ARGV[2], ARGV[i], ARGV[i + 1])
  if state == 'held' then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
  states[#states + 1] = state
end
return states
