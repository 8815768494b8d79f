-- The record of a migration: a hash beside the list. For each of the two lists, `waiting` and `processing`, it has what was
-- found in it at the beginning, what others have added (or, negative, taken) since, what was moved and set aside, and its
-- length when a script last touched it.

-- The length that the record knows, or nil if the server has lost the record.
local function known_length(record, part)
  return tonumber(redis.call('HGET', record, part .. '_length'))
end

-- Writes down what a script has done with a list, and what others did since the script before.
local function note(record, part, list, known, before, moved, aside)
  redis.call('HINCRBY', record, part .. '_others', before - known)
  redis.call('HINCRBY', record, part .. '_moved', moved)
  redis.call('HINCRBY', record, part .. '_aside', aside)
  redis.call('HSET', record, part .. '_length', redis.call('LLEN', list))
end
