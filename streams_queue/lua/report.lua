-- One consumer at a time reports the queue's figures: take the office if it is free, keep it, or give it up.
-- KEYS: 1 reporter
-- ARGV: 1 consumer, 2 for how long, in ms; 0 gives it up
-- Returns: 1 if this consumer holds the office now, 0 if another one does, or nobody
-- Cost: O(1)
-- Idempotent: yes
local holder, ttl_ms = redis.call('GET', KEYS[1]), tonumber(ARGV[2])
if holder and holder ~= ARGV[1] then
  return 0
end
if ttl_ms == 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
-- Whoever holds it keeps it also when the server has no memory left, which PEXPIRE does not need.
if holder then
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ttl_ms)
end
return 1
