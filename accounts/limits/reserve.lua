-- Counts one claim if all of its holders let it pass, or only looks. The rules are those of
-- memory.py, in the same order; Redis runs a script alone, and its clock is everybody's.
--
-- KEYS, four of each holder:
--   running  sorted set: claim -> until when (ms) its process has said that it lives
--   window   sorted set: claim -> when (ms) it was admitted
--   tokens   hash: claim in the window -> its tokens; "sum"
--   budget   hash: "r:" .. running claim -> its tokens; "reserved": their sum; "used"; "generation"
-- ARGV: "reserve" or "look", claim, tokens, ms of the window, ms of a lease; then seven of each holder:
--   requests at once, requests per minute, tokens per minute, budget (-1: no such limit),
--   ms until the budget's key may go, what was read of the budget and of which generation (-1: nothing)
-- Returns: check, holder, ms to wait; then seven of each holder:
--   running, requests, tokens, ms until the window is empty, used (-1: unread), reserved, generation

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claim, asked = ARGV[2], tonumber(ARGV[3])
local window_ms, lease_ms = tonumber(ARGV[4]), tonumber(ARGV[5])

local function number(key, field)
  return tonumber(redis.call('HGET', key, field) or 0)
end

local function leave_window(h, id)
  redis.call('ZREM', h.window, id)
  local tokens = redis.call('HGET', h.tokens, id)
  if tokens then
    redis.call('HDEL', h.tokens, id)
    redis.call('HINCRBY', h.tokens, 'sum', -tokens)
  end
end

-- The process of this claim died: its row, when others have ended it, says what it has used.
local function bury(h, id)
  redis.call('ZREM', h.running, id)
  local reserved = redis.call('HGET', h.budget, 'r:' .. id)
  if reserved then
    redis.call('HDEL', h.budget, 'r:' .. id, 'used')
    redis.call('HINCRBY', h.budget, 'reserved', -reserved)
    redis.call('HINCRBY', h.budget, 'generation', 1)
  end
end

local holders = {}
for at = 1, #KEYS, 4 do
  local from = 5 + (at - 1) / 4 * 7
  local function argument(place) return tonumber(ARGV[from + place]) end
  local h = {
    running = KEYS[at], window = KEYS[at + 1], tokens = KEYS[at + 2], budget = KEYS[at + 3],
    at_once = argument(1), per_minute = argument(2), tokens_per_minute = argument(3),
    allowed = argument(4), keep_ms = argument(5), read = argument(6), read_of = argument(7),
  }
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', h.running, '-inf', now)) do bury(h, id) end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', h.window, '-inf', now - window_ms)) do
    leave_window(h, id)
  end
  if h.read >= 0 and h.read_of == number(h.budget, 'generation') then
    if redis.call('HSETNX', h.budget, 'used', string.format('%.0f', h.read)) == 1 then
      redis.call('PEXPIRE', h.budget, h.keep_ms)
    end
  end
  holders[#holders + 1] = h
end

-- ---- the checks -----------------------------------------------------------------------------------

local function ends(h, place)
  local found = redis.call('ZRANGE', h.window, place, place, 'WITHSCORES')
  return found[2] and found[2] + window_ms - now or 0
end

local function wait_for_tokens(h, room)
  local left = number(h.tokens, 'sum')
  local members = redis.call('ZRANGE', h.window, 0, -1, 'WITHSCORES')
  for i = 1, #members, 2 do
    left = left - number(h.tokens, members[i])
    if left <= room then return members[i + 1] + window_ms - now end
  end
  return 0
end

local function first_refusal()
  for i, h in ipairs(holders) do
    if h.at_once >= 0 and redis.call('ZCARD', h.running) >= h.at_once then return 1, i, 0 end
  end
  for i, h in ipairs(holders) do
    local admitted = redis.call('ZCARD', h.window)
    if h.per_minute >= 0 and admitted >= h.per_minute then
      return 2, i, ends(h, admitted - h.per_minute)
    end
  end
  for i, h in ipairs(holders) do
    local limit = h.tokens_per_minute
    if limit >= 0 and number(h.tokens, 'sum') + asked > limit then
      return 3, i, wait_for_tokens(h, limit - asked)
    end
  end
  for i, h in ipairs(holders) do
    if h.allowed >= 0 and redis.call('HEXISTS', h.budget, 'used') == 0 then return 5, i, 0 end
  end
  for i, h in ipairs(holders) do
    if h.allowed >= 0 then
      local used = number(h.budget, 'used') + number(h.budget, 'reserved')
      if used + asked > h.allowed then return 4, i, 0 end
    end
  end
  return 0, 1, 0
end

-- ---- counting -------------------------------------------------------------------------------------

-- A client whose connection broke sends the script again, so nothing may count the same claim twice.
local function count(h)
  if h.at_once >= 0 or h.allowed >= 0 then
    redis.call('ZADD', h.running, now + lease_ms, claim)
    redis.call('PEXPIRE', h.running, 2 * lease_ms)
  end
  if h.per_minute >= 0 or h.tokens_per_minute >= 0 then
    redis.call('ZADD', h.window, 'NX', now, claim)
    redis.call('PEXPIRE', h.window, 2 * window_ms)
  end
  if h.tokens_per_minute >= 0 then
    if redis.call('HSETNX', h.tokens, claim, asked) == 1 then
      redis.call('HINCRBY', h.tokens, 'sum', asked)
    end
    redis.call('PEXPIRE', h.tokens, 2 * window_ms)
  end
  if h.allowed >= 0 then
    if redis.call('HSETNX', h.budget, 'r:' .. claim, asked) == 1 then
      redis.call('HINCRBY', h.budget, 'reserved', asked)
    end
    redis.call('PEXPIRE', h.budget, h.keep_ms)
  end
end

local check, holder, wait_ms = 0, 1, 0
if ARGV[1] == 'reserve' then
  check, holder, wait_ms = first_refusal()
  if check == 0 then
    for _, h in ipairs(holders) do count(h) end
  end
end

local answer = {check, holder - 1, wait_ms}
for _, h in ipairs(holders) do
  for _, value in ipairs({
    redis.call('ZCARD', h.running), redis.call('ZCARD', h.window), number(h.tokens, 'sum'),
    ends(h, -1), tonumber(redis.call('HGET', h.budget, 'used') or -1), number(h.budget, 'reserved'),
    number(h.budget, 'generation'),
  }) do
    answer[#answer + 1] = value
  end
end
return answer
