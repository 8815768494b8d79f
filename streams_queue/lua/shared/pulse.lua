-- Whether anybody reached the server lately. If nobody did for half a lease, the server was down or stopped, or its clock
-- stepped: every pending entry looks expired then, also those of living consumers. They get half a lease to renew before
-- anything is claimed.

-- A time as it was written; nil if it is none. NaN would be neither before nor after anything, for ever.
local function moment(text)
  local number = tonumber(text)
  return number == number and number or nil
end

local function pulse_of(stats)
  local known = redis.call('HMGET', stats, 'alive_ms', 'hold_ms')
  return moment(known[1]), moment(known[2]) or 0
end

-- Leaves a sign of life; returns until when nothing may be claimed. Its first write is one that is never refused for
-- memory, so that the rest of the script runs to its end. If the clock was set back, `set_back` is left for housekeeping.
local function leave_pulse(stats, alive, hold, now, lease)
  redis.call('HDEL', stats, 'no_such_field')
  if alive and math.abs(now - alive) > lease / 2 then
    hold = now + lease / 2
    redis.call('HSET', stats, 'hold_ms', hold)
    if alive > now then
      redis.call('HSET', stats, 'set_back', 1)
    end
  elseif hold - now > lease / 2 then
    hold = 0
  end
  redis.call('HSET', stats, 'alive_ms', now)
  return hold
end
