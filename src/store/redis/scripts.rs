//! What must happen whole: scripts that Redis runs without anything in between.
//!
//! Owns: the scripts' texts. Each touches keys of one slot only, so that a Cluster runs it too. Must not know:
//! what values mean, beyond the stamp of 8 bytes in front of each.

use ::redis::Script;

/// A script, and the name by which a server knows it.
pub(super) struct Lua {
    code: &'static str,
    script: Script,
}

impl Lua {
    fn new(code: &'static str) -> Lua {
        Lua { code, script: Script::new(code) }
    }

    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The SHA-1 of the text.
    pub(super) fn hash(&self) -> &str {
        self.script.get_hash()
    }
}

/// All of them. `KEYS[1]` is a table and `KEYS[2]` the order of its keys, unless something else is said.
pub(super) struct Scripts {
    /// Key, value. Writes; gives what was there.
    pub(super) put: Lua,
    /// Key, value, stamp. Writes if the value there has this stamp (zero: if none is there); gives 1 or 0.
    pub(super) swap: Lua,
    /// Key, value, task, fence; `KEYS[3]` has the leases. Writes if the lease is the last; gives 1 or 0.
    pub(super) put_under: Lua,
    /// Key. Removes; gives what was there.
    pub(super) remove: Lua,
    /// Key, stamp. Removes if the value there has this stamp (zero: if none is there); gives 1 or 0.
    pub(super) remove_stamped: Lua,
    /// Key, value. Removes if just this value is there; gives 1 or 0.
    pub(super) remove_same: Lua,
    /// Key, value, other value. Writes the other one if just this one is there; gives 1 or 0.
    pub(super) replace_same: Lua,
    /// Keys, each with a stamp that takes the place of an earlier one. Gives the keys that are not there.
    pub(super) touch: Lua,
    /// Where to begin (as `ZRANGEBYLEX` has it), how many. Gives keys, each with its value.
    pub(super) page: Lua,
    /// Format, canary; `KEYS[1]` alone. Writes them if there are none; gives those that are there, and the version that wrote last.
    pub(super) admit: Lua,
    /// Task, now, end; `KEYS[1]` has the leases. Gives 1 and the fence, or 0 and when the lease ends.
    pub(super) take_lease: Lua,
    /// Task, fence, end. Gives 1 or 0.
    pub(super) renew_lease: Lua,
    /// Task, fence. Gives 1 or 0.
    pub(super) release_lease: Lua,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts {
            put: Lua::new(PUT),
            swap: Lua::new(SWAP),
            put_under: Lua::new(PUT_UNDER),
            remove: Lua::new(REMOVE),
            remove_stamped: Lua::new(REMOVE_STAMPED),
            remove_same: Lua::new(REMOVE_SAME),
            replace_same: Lua::new(REPLACE_SAME),
            touch: Lua::new(TOUCH),
            page: Lua::new(PAGE),
            admit: Lua::new(ADMIT),
            take_lease: Lua::new(TAKE_LEASE),
            renew_lease: Lua::new(RENEW_LEASE),
            release_lease: Lua::new(RELEASE_LEASE),
        }
    }
}

const PUT: &str = "
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return old";

const SWAP: &str = "
local old = redis.call('HGET', KEYS[1], ARGV[1])
local stamp = old and string.sub(old, 1, 8) or string.rep('\\0', 8)
if stamp ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1";

const PUT_UNDER: &str = "
local held = redis.call('HGET', KEYS[3], ARGV[3])
if not held or string.match(held, '^(%d+) ') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1";

const REMOVE: &str = "
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return old";

const REMOVE_STAMPED: &str = "
local old = redis.call('HGET', KEYS[1], ARGV[1])
local stamp = old and string.sub(old, 1, 8) or string.rep('\\0', 8)
if stamp ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1";

const REMOVE_SAME: &str = "
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1";

const REPLACE_SAME: &str = "
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1";

const TOUCH: &str = "
local missing = {}
for i = 1, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if not old then
    missing[#missing + 1] = ARGV[i]
  elseif struct.unpack('>I8', old) < struct.unpack('>I8', ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. string.sub(old, 9))
  end
end
return missing";

const PAGE: &str = "
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if #keys == 0 then return {} end
local values = redis.call('HMGET', KEYS[1], unpack(keys))
local found = {}
for i, key in ipairs(keys) do
  found[2 * i - 1] = key
  found[2 * i] = values[i] or ''
end
return found";

const ADMIT: &str = "
local format = redis.call('HGET', KEYS[1], 'format')
if not format then
  redis.call('HSET', KEYS[1], 'format', ARGV[1], 'canary', ARGV[2])
  return {ARGV[1], ARGV[2], ''}
end
return {format, redis.call('HGET', KEYS[1], 'canary') or '', redis.call('HGET', KEYS[1], 'version') or ''}";

// The fence never lags behind the clock, so that it grows even where a failover has lost the last numbers.
const TAKE_LEASE: &str = "
local held = redis.call('HGET', KEYS[1], ARGV[1])
local fence = 0
if held then
  local last, ends = string.match(held, '^(%d+) (%d+)$')
  if tonumber(ends) > tonumber(ARGV[2]) then return {0, tonumber(ends)} end
  fence = tonumber(last)
end
fence = math.max(fence + 1, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', fence, ARGV[3]))
return {1, fence}";

const RENEW_LEASE: &str = "
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held or string.match(held, '^(%d+) ') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1";

// The number is moved on: what comes under the old one afterwards is refused.
const RELEASE_LEASE: &str = "
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held or string.match(held, '^(%d+) ') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f 0', tonumber(ARGV[2]) + 1))
return 1";
