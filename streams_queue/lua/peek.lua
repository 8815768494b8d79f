--!include frame group
-- Look at the next waiting events, then at the next due delayed ones, without taking them.
-- KEYS: 1 stream, 2 delayed
-- ARGV: 1 group, 2 most events to return
-- Returns: {waiting {id, fields}, delayed {due in ms, fields, or the member where it cannot be read}}
-- Cost: O(events returned)
-- Idempotent: reads only
local last_delivered = group_info(KEYS[1], ARGV[1])['last-delivered-id']
local waiting = redis.call('XRANGE', KEYS[1], '(' .. last_delivered, '+', 'COUNT', ARGV[2])
local delayed, room = {}, tonumber(ARGV[2]) - #waiting
if room > 0 then
  local members = redis.call('ZRANGE', KEYS[2], 0, room - 1, 'WITHSCORES')
  for i = 1, #members, 2 do
    delayed[#delayed + 1] = { members[i + 1], unframe(members[i]) or { 'payload', members[i] } }
  end
end
return { waiting, delayed }
