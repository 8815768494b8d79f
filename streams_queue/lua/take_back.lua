-- Take ceded event ids back that the other queue did not get, so that either queue may have them again.
-- KEYS: 1 … dedup buckets, the current one first; then as many ceded buckets, in the same order
-- ARGV: one digest per id
-- Returns: how many are free again; the others somebody else has tried to bring to the other queue, and maybe has
-- Cost: O(ids)
-- Idempotent: no: send it once; an id that is not taken back stays with the other queue
local buckets = #KEYS / 2

local ceded_in = {}
for index = 1, #ARGV do
  for bucket = 1, buckets do
    redis.call('SISMEMBER', KEYS[bucket], ARGV[index])
    if redis.call('HEXISTS', KEYS[bucket + buckets], ARGV[index]) == 1 then
      ceded_in[ARGV[index]] = bucket
    end
  end
end

local free = 0
for index = 1, #ARGV do
  local digest, bucket = ARGV[index], ceded_in[ARGV[index]]
  local attempts = bucket and redis.call('HGET', KEYS[bucket + buckets], digest)
  if attempts == '1' then
    redis.call('HDEL', KEYS[bucket + buckets], digest)
    redis.call('SREM', KEYS[bucket], digest)
    free = free + 1
  elseif attempts then
    redis.call('HINCRBY', KEYS[bucket + buckets], digest, -1)
  end
end
return free
