-- Settling is fenced: only who holds the pending entry, with the delivery count it was handed out with, may settle it.

-- 'held', 'lost' (somebody else holds it), or 'gone' (nobody does: it was settled or deleted).
local function holder(stream, group, consumer, id, count)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  if #pending == 0 then
    return 'gone'
  end
  if pending[1][2] == consumer and tonumber(pending[1][4]) == tonumber(count) then
    return 'held'
  end
  return 'lost'
end

-- The entry's fields, or nil if it was deleted behind the group's back. The claim comes first because it is not refused
-- for memory: after it the rest of the script runs to its end, also when the server is over maxmemory.
local function take(stream, group, consumer, id)
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
  local entry = redis.call('XRANGE', stream, id, id)[1]
  return entry and entry[2]
end

local function remove(stream, group, id)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
end
