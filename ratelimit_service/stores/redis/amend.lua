-- Applies one change of the amendments in one step: its edits, its idempotency key, and a line of the audit
-- for each edit.
--
-- KEYS  the amendments in force: a hash of JSON texts by id, with the fields `version` and `stamp`
--       the audit: a stream whose ids are <version>-<number of the edit>
--       the result of the change with this idempotency key
-- ARGV  '1' for a dry run, which writes nothing
--       the stamp of the new version; the digest of the change; its time in seconds; its author; its reason;
--       its idempotency key
--       the seconds for which the key is kept, the largest number of amendments, the number of lines that the
--       audit keeps, the largest number of bytes of a change with several edits
--       for each edit: its id, the JSON of the amendment to put ('' removes it), the JSON that it is expected
--       to replace ('' for none, '*' for any), and the JSON of a reset, which has no id
-- Returns {'applied', version, the JSON that each edit replaces ...}
--       {'done', the result of the change as JSON:
--                [digest, version, unfinished, [[id, before, after, reset] ...]]}
--       {'conflict', number of the edit, the JSON in force}, {'full'}, {'large', bytes}
--
-- It must be a script: a change that is applied without its key would be applied twice when it is sent again,
-- and one without a line in the audit could not be traced to its author. All checks come before the first
-- write. The texts are ASCII, and are not parsed here. stores/amendments.py is the twin of this script.

local CURRENT, AUDIT, DONE = KEYS[1], KEYS[2], KEYS[3]
local dry_run, stamp, digest, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local author, reason, key = ARGV[5], ARGV[6], ARGV[7]
local remembered, most, most_audited = ARGV[8], tonumber(ARGV[9]), ARGV[10]
local most_bytes = tonumber(ARGV[11])
local FIRST, EACH = 12, 4

local done = redis.call('GET', DONE)
if done then
    return {'done', done}
end

-- One HMGET, and below one HSET and one HDEL, for all edits: a call for each would take a third of the time
-- of the script, which must stay below a millisecond.
local ids = {}
for i = FIRST, #ARGV, EACH do
    ids[#ids + 1] = ARGV[i]
end
local held = redis.call('HMGET', CURRENT, unpack(ids))

-- What each edit replaces; an edit sees the effect of those before it.
local ahead, added, edits, bytes = {}, 0, {}, 0
for i = FIRST, #ARGV, EACH do
    local id, after, expected, reset = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local before = ''
    if id ~= '' then
        before = ahead[id] or held[#edits + 1] or ''
        if expected ~= '*' and expected ~= before then
            return {'conflict', #edits, before}
        end
        if before == '' and after ~= '' then
            added = added + 1
        elseif before ~= '' and after == '' then
            added = added - 1
        end
        ahead[id] = after
    end
    edits[#edits + 1] = {id, before, after, reset}
    bytes = bytes + #before + #after + #reset + #author + #reason + #key
end
if added > 0 and redis.call('HLEN', CURRENT) - 2 + added > most then
    return {'full'}
end
if #edits > 1 and bytes > most_bytes then
    return {'large', bytes}
end

-- The hash may have been deleted by hand, and the ids of a stream must increase.
local version = tonumber(redis.call('HGET', CURRENT, 'version') or '0')
local result = {'applied', version}
for i, edit in ipairs(edits) do
    result[i + 2] = edit[2]
end
if dry_run == '1' then
    return result
end
local last = redis.call('XREVRANGE', AUDIT, '+', '-', 'COUNT', 1)
if last[1] then
    version = math.max(version, tonumber(string.match(last[1][1], '^%d+')))
end
version = version + 1
result[2] = version

local unfinished = false
for i, edit in ipairs(edits) do
    local id, before, after, reset = unpack(edit)
    unfinished = unfinished or reset ~= ''
    local line = {string.format('%d-%d', version, i), 'stamp', stamp, 'at', at,
        'author', author, 'reason', reason, 'key', key,
        'id', id, 'before', before, 'after', after, 'reset', reset}
    if i < #edits then
        redis.call('XADD', AUDIT, unpack(line))
    else
        redis.call('XADD', AUDIT, 'MAXLEN', most_audited, unpack(line))
    end
end
local put, removed = {'version', string.format('%d', version), 'stamp', stamp}, {}
for id, after in pairs(ahead) do
    if after == '' then
        removed[#removed + 1] = id
    else
        put[#put + 1], put[#put + 2] = id, after
    end
end
if removed[1] then
    redis.call('HDEL', CURRENT, unpack(removed))
end
redis.call('HSET', CURRENT, unpack(put))
redis.call('SET', DONE, cjson.encode({digest, version, unfinished, edits}), 'EX', remembered)
return result
