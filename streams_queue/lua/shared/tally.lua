-- Counting what was done. Where somebody else wrote something into the hash that cannot be counted on, counting begins
-- anew: an error here would end a script between two of its writes, and do the first of them again with each retry.
local function tally(stats, name, by)
  if type(redis.pcall('HINCRBY', stats, name, by)) == 'table' then
    redis.pcall('HSET', stats, name, by)
  end
end
