-- A consumer says good-bye: remove it if nothing is pending for it, and forget its producer.
-- KEYS: 1 stream, 2 producer
-- ARGV: 1 group, 2 consumer
-- Returns: 1 if the consumer is gone, 0 if entries are still pending for it
-- Cost: O(1)
-- Idempotent: yes
redis.call('DEL', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 1
end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
