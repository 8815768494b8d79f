--!include tally fence
-- Hand waiting events to a drain: first what its consumer holds already (a reply was lost, or it was killed), else new ones.
-- KEYS: 1 stream, 2 stats
-- ARGV: 1 group, 2 consumer, 3 most entries to return, 4 bytes of payload after which no more are returned
-- Returns: {entries {id, delivery count, fields}, entries that were deleted behind the group's back}
-- Cost: O(entries returned)
-- Idempotent: yes, it returns the same entries until they are settled
redis.call('HGET', KEYS[2], 'lost')
local group, consumer, limit, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local entries, bytes, lost = {}, 0, 0

local function hand_out(id, count, fields)
  entries[#entries + 1] = { id, count, fields }
  for i = 1, #fields do
    bytes = bytes + #fields[i]
  end
end

for _, pending in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', limit, consumer)) do
  if bytes < most_bytes then
    local fields = take(KEYS[1], group, consumer, pending[1])
    if fields then
      hand_out(pending[1], pending[4], fields)
    else
      remove(KEYS[1], group, pending[1])
      lost = lost + 1
    end
  end
end
-- One by one, so that the size of each is known before the next one is taken.
local is_empty = #entries > 0
while not is_empty and #entries < limit and bytes < most_bytes do
  local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  local entry = reply and reply[1] and reply[1][2][1]
  if entry then
    hand_out(entry[1], 1, entry[2])
  else
    is_empty = true
  end
end
if lost > 0 then
  tally(KEYS[2], 'lost', lost)
end
return { entries, lost }
