--!include tally fence
-- After a lost reply: fetch what the server handed to this consumer and the consumer never got. Changes no delivery count.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, 2 consumer, 3 most entries to return, then the entry ids that the consumer does hold
-- Returns: {entries {id, delivery count, fields}, entries that were deleted behind the group's back, 1 if there are more}
-- Cost: O(pending entries of this consumer)
-- Idempotent: yes, as long as the caller lists what it holds
redis.call('HGET', KEYS[2], 'lost')
local known = {}
for i = 4, #ARGV do
  known[ARGV[i]] = true
end
local entries, lost, from, limit = {}, 0, '-', tonumber(ARGV[3])
while #entries < limit do
  local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 100, ARGV[2])
  for _, pending in ipairs(page) do
    local id = pending[1]
    from = '(' .. id
    if not known[id] and #entries < limit then
      local fields = take(KEYS[1], ARGV[1], ARGV[2], id)
      if fields then
        entries[#entries + 1] = { id, pending[4], fields }
      else
        remove(KEYS[1], ARGV[1], id)
        lost = lost + 1
      end
    end
  end
  if #page < 100 then
    break
  end
end
if lost > 0 then
  tally(KEYS[2], 'lost', lost)
end
return { entries, lost, #entries >= limit and 1 or 0 }
