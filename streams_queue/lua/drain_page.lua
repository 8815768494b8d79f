-- Look at delayed events in the order in which they are due, or at dead letters, oldest first.
-- KEYS: 1 delayed, 2 dead
-- ARGV: 1 delayed | dead, 2 how many delayed events to pass over | the dead letter behind which to begin (empty: the first),
--       3 most events to return, 4 bytes after which no more are returned
-- Returns: delayed {member, due in ms} | dead letters {id, fields}
-- Cost: O(events returned * log(events)), and the number passed over
-- Idempotent: reads only
local limit, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local found, bytes = {}, 0

local function next_delayed()
  local at = tonumber(ARGV[2]) + #found
  local pair = redis.call('ZRANGE', KEYS[1], at, at, 'WITHSCORES')
  return pair[1] and { pair[1], pair[2] }, pair[1] and #pair[1]
end

local after = ARGV[2]
local function next_dead()
  local letter = redis.call('XRANGE', KEYS[2], after == '' and '-' or '(' .. after, '+', 'COUNT', 1)[1]
  if not letter then
    return nil
  end
  local size = 0
  for i = 1, #letter[2] do
    size = size + #letter[2][i]
  end
  after = letter[1]
  return letter, size
end

local following = ARGV[1] == 'dead' and next_dead or next_delayed
while #found < limit and bytes < most_bytes do
  local one, size = following()
  if not one then
    break
  end
  found[#found + 1] = one
  bytes = bytes + size
end
return found
