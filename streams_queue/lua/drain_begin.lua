-- Note how many events a drain has taken out so far.
-- KEYS: 1 drains
-- ARGV: 1 drain, 2 how many
-- Returns: 1
-- Cost: O(1)
-- Idempotent: yes
-- The first write is never refused for memory, so that a full server can be drained.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
