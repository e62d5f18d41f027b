-- Ends a claim: its tokens were so many, or (-1) it is taken back as if it had never been.
--
-- KEYS: as for reserve.lua. ARGV: claim, tokens; then of each holder whether its budget counts (1, 0).

local claim, tokens = ARGV[1], tonumber(ARGV[2])
local taken_back = tokens < 0

for at = 1, #KEYS, 4 do
  local running, window, counted, budget = KEYS[at], KEYS[at + 1], KEYS[at + 2], KEYS[at + 3]
  redis.call('ZREM', running, claim)

  if taken_back then redis.call('ZREM', window, claim) end
  local before = redis.call('HGET', counted, claim)
  if before then
    local now = taken_back and 0 or tokens
    redis.call('HINCRBY', counted, 'sum', now - before)
    if taken_back then
      redis.call('HDEL', counted, claim)
    else
      redis.call('HSET', counted, claim, now)
    end
  end

  if ARGV[2 + (at + 3) / 4] == '1' and redis.call('EXISTS', budget) == 1 then
    local reserved = redis.call('HGET', budget, 'r:' .. claim)
    if reserved then
      redis.call('HDEL', budget, 'r:' .. claim)
      redis.call('HINCRBY', budget, 'reserved', -reserved)
    end
    if not taken_back then
      if reserved and redis.call('HEXISTS', budget, 'used') == 1 then
        redis.call('HINCRBY', budget, 'used', tokens)
      else
        -- Redis has lost the reservation, or somebody reads just now and may have read this claim
        -- or not: the database, where it has ended, is asked anew.
        redis.call('HINCRBY', budget, 'generation', 1)
        redis.call('HDEL', budget, 'used')
      end
    end
  end
end
return 0
