--!include tally
-- Leave event ids to another queue, unless this one has them: from then on each belongs to one of the two.
-- KEYS: 1 stats; then dedup buckets, the current one first; then as many ceded buckets, in the same order
-- ARGV: 1 TTL in ms, 2 whether this queue has just refused the events as duplicates: 1 or 0, then one digest per id
-- Returns: one number per id: 1 if it is ceded, now or before; 0 if this queue has it
-- Cost: O(ids)
-- Idempotent: nearly: a repetition is counted as one more attempt, and keeps an id from being taken back
local buckets = (#KEYS - 1) / 2
local refused = ARGV[2] == '1'

-- All looking comes before the first write: a script does not roll back.
redis.call('HEXISTS', KEYS[1], 'schema')
local ceded_in, known = {}, {}
for index = 3, #ARGV do
  local digest = ARGV[index]
  for bucket = 2, buckets + 1 do
    if redis.call('SISMEMBER', KEYS[bucket], digest) == 1 then
      known[digest] = true
    end
    if redis.call('HEXISTS', KEYS[bucket + buckets], digest) == 1 then
      ceded_in[digest] = KEYS[bucket + buckets]
    end
  end
end

local answers, doubled, added = {}, 0, false
for index = 3, #ARGV do
  local digest = ARGV[index]
  local ceded = ceded_in[digest] or not known[digest]
  if ceded then
    -- Counted, so that who knows that the other queue did not get it can tell whether somebody else tried as well.
    redis.call('HINCRBY', ceded_in[digest] or KEYS[buckets + 2], digest, 1)
    if not ceded_in[digest] then
      redis.call('SADD', KEYS[2], digest)
      ceded_in[digest], added = KEYS[buckets + 2], true
    end
  end
  answers[index - 2] = ceded and 1 or 0
  -- What was counted as a duplicate here is the other queue's to judge.
  doubled = doubled + (ceded and refused and -1 or not ceded and not refused and 1 or 0)
end
if added then
  redis.call('PEXPIRE', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[buckets + 2], ARGV[1])
end
if doubled ~= 0 then
  tally(KEYS[1], 'duplicates', doubled)
end
return answers
