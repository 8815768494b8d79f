-- A consumer says good-bye: remove it if nothing is pending for it, and forget its producer.
-- KEYS: 1 stream, 2 producer
-- ARGV: 1 group, 2 consumer
-- Returns: 1 if the consumer is gone, 0 if entries are still pending for it
-- Cost: O(1)
-- Idempotent: yes
local is_there = redis.call('EXISTS', KEYS[1]) == 1
local pending = is_there and redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) or {}
redis.call('DEL', KEYS[2])
if is_there and #pending == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
return #pending == 0 and 1 or 0
