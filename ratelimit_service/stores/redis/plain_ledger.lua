-- The part of the script (hit.lua) that writes the entries of charges that hit.lua has counted, all of them
-- in order. Like hit.lua it defines no functions: nearly all batches with entries end here. ledger.lua writes
-- all other entries.

local CHARGED_AS_HIT = '0'
local runs, run  -- the number of runs of entries that are left, and the place of the next one in ARGV
local book  -- the place of the last book in KEYS whose entry was written
local failure, failures = nil, 0  -- the error of entries that could not be written, and their number

if kind and first > hits and not failed then
    runs, run, book = tonumber(ARGV[at]), at + 1, hits + 1
    while runs > 0 and ARGV[run] == CHARGED_AS_HIT do
        local charged, last = ARGV[run + 1] .. ':charged', run + 3 + ARGV[run + 3]
        for i = run + 4, last do
            book = book + 1
            local amount = amounts[ARGV[i] + 0]
            local after = amount ~= '0' and pcall('HINCRBY', KEYS[book], charged, amount)
            if not after then  -- a check leaves no entry
            elseif type(after) == 'table' then
                failure, failures = after.err, failures + 1
            elseif after - amount == 0 and pcall('TTL', KEYS[book]) == -1 then  -- the book is new
                pcall('EXPIRE', KEYS[book], ARGV[run + 2])
            end
        end
        runs, run = runs - 1, last + 1
    end
    if runs == 0 then
        if failure then
            counts[hits + 1], counts[hits + 2], counts[hits + 3] = '', failure, failures
        end
        return counts
    end
end
