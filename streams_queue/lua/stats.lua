--!include time entry group
-- One consistent look at all figures.
-- KEYS: 1 stream, 2 delayed, 3 dead, 4 stats
-- ARGV: 1 group
-- Returns: {entries in the stream, pending, delayed, dead, consumers, oldest waiting entry id or '', server time in ms,
--       flat list of the stats hash, with what error the server refuses writes now, or ''}
-- Cost: O(consumers)
-- Idempotent: changes nothing
local info = group_info(KEYS[1], ARGV[1])
local oldest = redis.call('XRANGE', KEYS[1], '(' .. info['last-delivered-id'], '+', 'COUNT', 1)[1]
-- Tries a write that needs memory and changes nothing, because the field is there.
local written = redis.call('HEXISTS', KEYS[4], 'schema') == 1 and redis.pcall('HSETNX', KEYS[4], 'schema', '')
local refused = type(written) == 'table' and written.err or ''
return { redis.call('XLEN', KEYS[1]), info['pending'], redis.call('ZCARD', KEYS[2]), redis.call('XLEN', KEYS[3]),
  info['consumers'], oldest and oldest[1] or '', time_ms(), redis.call('HGETALL', KEYS[4]), refused }
