-- Presence of all nodes, kept exact inside the server. Runs on Valkey 7.2 and later and on Redis 7.0 and later.
--
-- Each function takes one key, K = messaging:{CLUSTER}; the braces keep every key and channel in one slot.
--   K:nodes        sorted set  incarnation -> deadline of its lease, ms of the server's clock
--   K:n:INC        hash        seq (of the last batch applied), taken (incarnations that it takes over, by blanks), label;
--                              there is one for each member of K:nodes, and no other
--   K:conns        hash        incarnation -> open connections
--   K:syncing      set         incarnations that have not told all they hold
--   K:dying        set         incarnations whose entries leave, slice by slice
--   K:h:INC:KIND   set         what an incarnation holds; KIND is u, c, p, t: user, conversation, participant, typing
--   K:KIND         hash        entry -> number of incarnations that hold it; HLEN is the figure
--   K:m:C, K:y:C   sets        users who take part, who type, in conversation C
--   K:c:C          channel     what everybody who holds C hears
--   K:a            channel     what all nodes hear
--   K:state        hash        evicted (keys that the server had dropped when K began; ? if it may have dropped some
--                              since), run (of the server, when one has last registered or beaten), remains (there is
--                              one if sets of who takes part may be older than that), settles (until when entries may
--                              be missing), came (how many incarnations have registered), latest (when one has last
--                              registered or beaten)
--
-- Invariants: holders(x) is the number of incarnations whose set has x; an incarnation is in one of nodes, taken over
-- by one in nodes, dying, or has nothing left; an announcement leaves exactly on 0 <-> 1; no call touches more entries
-- than it is given or allowed. Every function may be repeated without harm, but register: a name is taken once.

local INDEX = {p = ':m:', t = ':y:'}
local SAYS = {p = {'J', 'L'}, t = {'T', 'U'}}
-- A participant of several nodes, and of one only again: a node of which a user has nothing elsewhere need not wait for
-- the server to know that they have stopped typing.
local SHARED = {p = {'S', 'O'}}

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number)  -- Redis 7.0 writes large numbers as 1.7e+12 otherwise
  return string.format('%.0f', number)
end

-- May the user run this? nil where the server has no such command, as after a rename-command.
local function may(...)
  local known, allowed = pcall(redis.acl_check_cmd, ...)
  if known then
    return allowed
  end
end

-- A right that is taken away must not show half-way: what was done before would be counted twice or never, or not said.
local function may_write(K)
  local key = K .. ':x'
  if not (redis.acl_check_cmd('HMGET', key, 'x') and redis.acl_check_cmd('HSET', key, 'x', '1')
      and redis.acl_check_cmd('HDEL', key, 'x') and redis.acl_check_cmd('SADD', key, 'x')
      and redis.acl_check_cmd('SREM', key, 'x') and redis.acl_check_cmd('SMEMBERS', key)
      and redis.acl_check_cmd('DEL', key)) then
    error({err = 'NOPERM the user lacks rights'})
  end
end

local function may_announce(K)
  if not redis.acl_check_cmd('SPUBLISH', K .. ':c:x', 'x') then
    error({err = 'NOPERM the user lacks rights: +spublish'})
  end
end

-- What is to be said, by conversation: one publish for each at the end of the call.
local function announce(K, said)
  for _, conversation in ipairs(said) do
    redis.call('SPUBLISH', K .. ':c:' .. conversation, 'A\n' .. table.concat(said[conversation], '\n'))
  end
end

local function say(said, conversation, word)
  local words = said[conversation]
  if not words then
    words = {}
    said[conversation] = words
    said[#said + 1] = conversation
  end
  words[#words + 1] = word
end

-- Freed behind the server's back where that is allowed: sets and hashes may be large, and nobody waits for their end.
local function drop(...)
  local word = may('UNLINK', ...) and 'UNLINK' or 'DEL'
  redis.call(word, ...)
end

-- Entries of nodes that have not come back yet may be missing: for so many more milliseconds.
local function unsettled(K, time)
  return math.max(0, tonumber(redis.call('HGET', K .. ':state', 'settles') or '0') - time)
end

-- These entries of one kind, each once, have one holder more or fewer.
local function count(K, kind, entries, by, said)
  local holders, index = K .. ':' .. kind, INDEX[kind]
  local before = redis.call('HMGET', holders, unpack(entries))
  local kept, gone, first = {}, {}, {}
  for i, entry in ipairs(entries) do
    local after = tonumber(before[i] or '0') + by
    local word
    if after <= 0 then
      gone[#gone + 1] = entry
      word = index and SAYS[kind][2]
    else
      kept[#kept + 1] = entry
      kept[#kept + 1] = after
      if after == 1 and by == 1 then
        word = index and SAYS[kind][1]
      elseif after == 1 or by == 1 then
        word = SHARED[kind] and SHARED[kind][by == 1 and 1 or 2]
      end
      if kind == 'c' and after == 1 and by == 1 then
        first[#first + 1] = entry
      end
    end
    if word then
      local cut = string.find(entry, '\n', 1, true)
      local conversation, user = string.sub(entry, 1, cut - 1), string.sub(entry, cut + 1)
      if after <= 0 then
        redis.call('SREM', K .. index .. conversation, user)
      elseif after == 1 and by == 1 then
        redis.call('SADD', K .. index .. conversation, user)
      end
      say(said, conversation, word .. user)
    end
  end
  if #first > 0 and redis.call('HGET', K .. ':state', 'remains') then
    local settled = unsettled(K, now()) == 0  -- until then whoever is in there comes back; then all nodes compare
    for _, conversation in ipairs(first) do  -- nobody takes part yet: what says so is older than K
      for _, user in ipairs(settled and redis.call('SMEMBERS', K .. ':m:' .. conversation) or {}) do
        say(said, conversation, 'L' .. user)
      end
      drop(K .. ':m:' .. conversation, K .. ':y:' .. conversation)
    end
  end
  if #kept > 0 then
    redis.call('HSET', holders, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', holders, unpack(gone))
  end
end

-- An incarnation holds these entries from now on (by 1) or no longer (by -1); what is so already changes nothing.
local function change(K, inc, by, run, said)
  for _, kind in ipairs(by == 1 and {'u', 'c', 'p', 't'} or {'t', 'p', 'c', 'u'}) do
    local entries = run[kind]
    if entries then
      local mine, changed, seen = K .. ':h:' .. inc .. ':' .. kind, {}, {}
      local held = redis.call('SMISMEMBER', mine, unpack(entries))
      for i, entry in ipairs(entries) do
        if (held[i] == 1) ~= (by == 1) and not seen[entry] then
          seen[entry] = true
          changed[#changed + 1] = entry
        end
      end
      if #changed > 0 then
        redis.call(by == 1 and 'SADD' or 'SREM', mine, unpack(changed))
        count(K, kind, changed, by, said)
      end
    end
  end
end

local function unsettle(K, time, lease)
  local until_ = tonumber(redis.call('HGET', K .. ':state', 'settles') or '0')
  if time + lease > until_ then
    redis.call('HSET', K .. ':state', 'settles', text(time + lease))
  end
end

local function taken_over(K, inc)
  local list = {}
  for old in string.gmatch(redis.call('HGET', K .. ':n:' .. inc, 'taken') or '', '%S+') do
    list[#list + 1] = old
  end
  return list
end

local function forget(K, inc)
  local held = K .. ':h:' .. inc
  drop(K .. ':n:' .. inc, held .. ':u', held .. ':c', held .. ':p', held .. ':t')
end

-- A server that makes room drops whole keys, and what is left of K is wrong then, for ever. While it may do so, nobody is
-- told figures: the answer is an error. When it has done so, K begins anew, as on an empty server; so it does after any
-- time in which it was seen that it may, because the server's counter begins anew too, with its process or on request.
-- Where this is another process than the one that K was last changed in, a replica or one that has read a file, the last
-- writes may be missing: who is in K may have gone long ago, and others may not have come back. What it may have dropped
-- before nobody knows: for whoever comes first where nobody lives, K begins anew.
local function refuse_or_begin(K, time, lease, comes)
  local info = redis.call('INFO', 'server', 'memory', 'stats')
  local policy = string.match(info, 'maxmemory_policy:(%S+)') or 'noeviction'
  local before, ran = unpack(redis.call('HMGET', K .. ':state', 'evicted', 'run'))
  if policy ~= 'noeviction' then
    if before then
      redis.call('HSET', K .. ':state', 'evicted', '?')
    end
    return redis.error_reply("EVICTS the broker's maxmemory-policy is " .. policy)
  end
  local evicted, run = string.match(info, 'evicted_keys:(%d+)') or '0', string.match(info, 'run_id:(%S+)') or ''
  local is_first = comes and ran ~= run and redis.call('ZCOUNT', K .. ':nodes', '(' .. text(time), '+inf') == 0
  if before ~= evicted or is_first then
    local remains = before or evicted ~= '0' or redis.call('HLEN', K .. ':c') > 0
    for _, inc in ipairs(redis.call('ZRANGEBYSCORE', K .. ':nodes', '-inf', '+inf')) do
      for _, old in ipairs(taken_over(K, inc)) do
        forget(K, old)
      end
      forget(K, inc)
    end
    for _, inc in ipairs(redis.call('SMEMBERS', K .. ':dying')) do
      forget(K, inc)
    end
    drop(K .. ':u', K .. ':c', K .. ':p', K .. ':t')
    redis.call('DEL', K .. ':nodes', K .. ':conns', K .. ':syncing', K .. ':dying', K .. ':state')
    redis.call('HSET', K .. ':state', 'evicted', evicted)
    if remains then
      redis.call('HSET', K .. ':state', 'remains', '1')
    end
  end
  if before ~= evicted or ran ~= run then
    redis.call('HSET', K .. ':state', 'run', run)
    unsettle(K, time, lease)  -- perhaps nodes have not come back yet
  end
  return nil
end

-- Out of the living; its entries stay until they are purged.
local function bury(K, inc)
  for _, old in ipairs(taken_over(K, inc)) do
    redis.call('SADD', K .. ':dying', old)
  end
  redis.call('ZREM', K .. ':nodes', inc)
  redis.call('HDEL', K .. ':conns', inc)
  redis.call('SREM', K .. ':syncing', inc)
  redis.call('DEL', K .. ':n:' .. inc)
  redis.call('SADD', K .. ':dying', inc)
end

-- At most that many entries leave, all of one dying incarnation; how many they were.
local function purge(K, budget)
  local inc = redis.call('SRANDMEMBER', K .. ':dying')
  if not inc then
    return 0
  end
  may_announce(K)
  local said, gone = {}, 0
  for _, kind in ipairs({'t', 'p', 'c', 'u'}) do
    if gone < budget then
      local entries = redis.call('SPOP', K .. ':h:' .. inc .. ':' .. kind, text(budget - gone))
      if #entries > 0 then
        count(K, kind, entries, -1, said)
        gone = gone + #entries
      end
    end
  end
  if gone < budget then
    redis.call('SREM', K .. ':dying', inc)
  end
  announce(K, said)
  return gone
end

-- A node that was in is back. If nobody has been heard for half a lease, the server was out of reach, and whoever else
-- was in has the time to come back, too.
local function reprieve(K, time, lease)
  if redis.call('ZCOUNT', K .. ':nodes', text(time + math.floor(lease / 2)), '+inf') == 0 then
    for _, inc in ipairs(redis.call('ZRANGEBYSCORE', K .. ':nodes', '-inf', '+inf')) do
      redis.call('ZADD', K .. ':nodes', text(time + lease), inc)
    end
  end
end

-- The server's clock may have been put back: by what it wrote before, a dead node would live on for as long as that was.
-- Only then: a node whose lease is longer than the caller's may beat too seldom for that one.
local function rein_in(K, time, lease)
  local latest = tonumber(redis.call('HGET', K .. ':state', 'latest') or '0')
  redis.call('HSET', K .. ':state', 'latest', text(time))
  if time >= latest then
    return
  end
  for _, inc in ipairs(redis.call('ZRANGEBYSCORE', K .. ':nodes', '(' .. text(time + lease), '+inf')) do
    redis.call('ZADD', K .. ':nodes', text(time + lease), inc)
  end
  if unsettled(K, time) > lease then
    redis.call('HSET', K .. ':state', 'settles', text(time + lease))
  end
end

-- Of the last batch applied of an incarnation that is in; what a server has left of one that it has dropped is nobody's.
local function seq_of(K, inc)
  return redis.call('ZSCORE', K .. ':nodes', inc) and redis.call('HGET', K .. ':n:' .. inc, 'seq')
end

-- seq is the caller's; nil when it is what is stored here, else the word that says why not.
local function stranger(K, inc, seq, time, lease)
  local stored = seq_of(K, inc)
  if not stored then
    return 'gone'
  end
  if tonumber(stored) ~= seq then
    unsettle(K, time, lease)  -- writes are missing here, perhaps others' too
    return 'lost'
  end
  return nil
end

local function figures(K)
  local time = redis.call('TIME')
  local ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local connections = 0
  for _, count in ipairs(redis.call('HVALS', K .. ':conns')) do
    connections = connections + tonumber(count)
  end
  local state = redis.call('HMGET', K .. ':state', 'settles', 'came')
  return {
    text(tonumber(time[1]) * 1000000 + tonumber(time[2])),
    redis.call('ZCOUNT', K .. ':nodes', '(' .. text(ms), '+inf'),
    connections,
    redis.call('HLEN', K .. ':u'),
    redis.call('HLEN', K .. ':c'),
    redis.call('HLEN', K .. ':p'),
    redis.call('HLEN', K .. ':t'),
    redis.call('SCARD', K .. ':dying'),
    redis.call('SCARD', K .. ':syncing'),
    math.max(0, tonumber(state[1] or '0') - ms),
    tonumber(state[2] or '0'),
  }
end

-- register K  INC LEASE CONNECTIONS LABEL OLD...  A node begins, or begins anew: what it held under OLD names stays until
-- it is complete. Answers the figures.
local function register(keys, args)
  may_write(keys[1])
  local K, inc, lease = keys[1], args[1], tonumber(args[2])
  local time = now()
  local wrong = refuse_or_begin(K, time, lease, #args == 4)
  if wrong then
    return wrong
  end
  rein_in(K, time, lease)
  redis.call('HSET', K .. ':state', 'came', text(tonumber(redis.call('HGET', K .. ':state', 'came') or '0') + 1))
  if #args > 4 then
    reprieve(K, time, lease)
  end
  local taken = {}
  for i = 5, #args do
    local old = args[i]
    if redis.call('ZSCORE', K .. ':nodes', old) then
      for _, older in ipairs(taken_over(K, old)) do
        taken[#taken + 1] = older
      end
      taken[#taken + 1] = old
      redis.call('ZREM', K .. ':nodes', old)
      redis.call('HDEL', K .. ':conns', old)
      redis.call('SREM', K .. ':syncing', old)
      redis.call('DEL', K .. ':n:' .. old)
    elseif redis.call('HGET', K .. ':n:' .. old, 'seq') then  -- nodes was dropped, and this was not
      forget(K, old)
    end
  end
  redis.call('ZADD', K .. ':nodes', text(time + lease), inc)
  redis.call('HSET', K .. ':n:' .. inc, 'seq', '0', 'taken', table.concat(taken, ' '), 'label', args[4])
  redis.call('HSET', K .. ':conns', inc, args[3])
  redis.call('SADD', K .. ':syncing', inc)
  return figures(K)
end

-- apply K  INC LEASE SEQ CONNECTIONS COMPLETE OP...  One batch of changes, in order; OP is + or -, the kind, the entry.
-- COMPLETE 1: all that is held has been told. Answers ok, gone (unknown incarnation) or lost (a batch is missing).
local function apply(keys, args)
  may_write(keys[1])
  may_announce(keys[1])
  local K, inc, seq = keys[1], args[1], tonumber(args[3])
  local stored = seq_of(K, inc)
  if not stored then
    return 'gone'
  end
  stored = tonumber(stored)
  if seq <= stored then
    return 'ok'  -- its answer had been lost
  end
  if seq ~= stored + 1 then
    unsettle(K, now(), tonumber(args[2]))
    return 'lost'
  end
  local said, run, by = {}, {}, 1
  for i = 6, #args do
    local op = args[i]
    local sign, kind = string.byte(op) == 43 and 1 or -1, string.sub(op, 2, 2)
    if sign ~= by then
      change(K, inc, by, run, said)
      run, by = {}, sign
    end
    local entries = run[kind]
    if not entries then
      entries = {}
      run[kind] = entries
    end
    entries[#entries + 1] = string.sub(op, 3)
  end
  change(K, inc, by, run, said)
  redis.call('HSET', K .. ':n:' .. inc, 'seq', args[3])
  redis.call('HSET', K .. ':conns', inc, args[4])
  if args[5] == '1' then
    redis.call('SREM', K .. ':syncing', inc)
    for _, old in ipairs(taken_over(K, inc)) do
      redis.call('SADD', K .. ':dying', old)
    end
    redis.call('HDEL', K .. ':n:' .. inc, 'taken')
  end
  announce(K, said)
  return 'ok'
end

-- beat K  INC LEASE SEQ CONNECTIONS BUDGET  The node lives: its lease begins anew. Buries who does not, and takes at most
-- BUDGET of a dead one's entries out. Answers gone, lost, or the figures and how many entries left.
local function beat(keys, args)
  may_write(keys[1])
  local K, inc, lease = keys[1], args[1], tonumber(args[2])
  local time = now()
  local why = refuse_or_begin(K, time, lease) or stranger(K, inc, tonumber(args[3]), time, lease)
  if why then
    return why
  end
  rein_in(K, time, lease)
  reprieve(K, time, lease)
  redis.call('ZADD', K .. ':nodes', text(time + lease), inc)
  redis.call('HSET', K .. ':conns', inc, args[4])
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', K .. ':nodes', '-inf', text(time), 'LIMIT', '0', '10')) do
    bury(K, dead)
  end
  local gone = purge(K, tonumber(args[5]))
  local answer = figures(K)
  answer[#answer + 1] = gone
  return answer
end

-- retire K  INC BUDGET  A drained node: out at once, with a first slice of what it still held. Answers how many dying
-- incarnations are left; to be called until there are none.
local function retire(keys, args)
  may_write(keys[1])
  local K, inc = keys[1], args[1]
  if redis.call('ZSCORE', K .. ':nodes', inc) then
    bury(K, inc)
  end
  purge(K, tonumber(args[2]))
  return redis.call('SCARD', K .. ':dying')
end

-- nodes K  Answers for how many more milliseconds nodes may be missing, then each living incarnation and its label.
local function nodes(keys)
  local K, time = keys[1], now()
  local found = {unsettled(K, time)}
  for _, inc in ipairs(redis.call('ZRANGEBYSCORE', K .. ':nodes', '(' .. text(time), '+inf')) do
    found[#found + 1] = inc
    found[#found + 1] = redis.call('HGET', K .. ':n:' .. inc, 'label') or ''
  end
  return found
end

-- check K  Answers the commands of this library and of a node that the user may not run, or not on these keys; those
-- that the server does not have begin with a question mark.
local function check(keys)
  local K = keys[1]
  local needed = {
    {'ZADD', K .. ':nodes', '1', 'x'}, {'ZREM', K .. ':nodes', 'x'}, {'ZSCORE', K .. ':nodes', 'x'},
    {'ZCOUNT', K .. ':nodes', '0', '1'}, {'ZRANGEBYSCORE', K .. ':nodes', '0', '1'},
    {'HSET', K .. ':conns', 'x', '1'}, {'HGET', K .. ':n:x', 'seq'}, {'HDEL', K .. ':conns', 'x'},
    {'HMGET', K .. ':u', 'x'}, {'HLEN', K .. ':u'}, {'HVALS', K .. ':conns'},
    {'SADD', K .. ':dying', 'x'}, {'SREM', K .. ':dying', 'x'}, {'SPOP', K .. ':h:x:u', '1'},
    {'SCARD', K .. ':dying'}, {'SRANDMEMBER', K .. ':dying'}, {'SMISMEMBER', K .. ':h:x:u', 'x'},
    {'SMEMBERS', K .. ':m:x'}, {'DEL', K .. ':n:x'}, {'TIME'}, {'PING'},
    {'SPUBLISH', K .. ':c:x', 'x'}, {'SSUBSCRIBE', K .. ':c:x'}, {'SSUBSCRIBE', K .. ':a'},
    {'SUNSUBSCRIBE', K .. ':c:x'}, {'FCALL', 'x', '1', K},
  }
  local missing = {}
  for _, command in ipairs(needed) do
    local allowed = may(unpack(command))
    if not allowed then
      missing[#missing + 1] = (allowed == nil and '?' or '') .. string.lower(command[1])
    end
  end
  return missing
end

redis.register_function('@_register', register)
redis.register_function{
  function_name = '@_check', callback = check, flags = {'no-writes'}
}
redis.register_function{
  function_name = '@_nodes', callback = nodes, flags = {'no-writes'}
}
redis.register_function('@_apply', apply)
redis.register_function('@_beat', beat)
redis.register_function('@_retire', retire)
redis.register_function{
  function_name = '@_figures', callback = function(keys) return figures(keys[1]) end, flags = {'no-writes'}
}
