-- What these budgets' periods have used is read again. KEYS: the budgets.
for _, budget in ipairs(KEYS) do
  if redis.call('EXISTS', budget) == 1 then
    redis.call('HINCRBY', budget, 'generation', 1)
    redis.call('HDEL', budget, 'used')  -- last: a hash that is empty for a moment loses its expiry
  end
end
return 0
