-- The oldest items of a list, which are at its right end.
-- KEYS: 1 list
-- ARGV: 1 how many to pass over, 2 how many at most, 3 stop when they have so many bytes
-- Returns: the items, the oldest first; at least one if there is one
-- Cost: O(items), and the way to where it begins
-- Idempotent: changes nothing
local PIECE = 8
local skip, count, room = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local items = {}
while #items < count and room > 0 do
  -- The first one alone tells how large they are; a piece of them is not much beyond the room.
  local size = #items == 0 and 1 or math.min(PIECE, count - #items)
  local piece = redis.call('LRANGE', KEYS[1], -(skip + #items + size), -(skip + #items + 1))
  for i = #piece, 1, -1 do
    if room > 0 then
      items[#items + 1] = piece[i]
      room = room - #piece[i]
    end
  end
  if #piece < size then
    break
  end
end
return items
