-- Options after `--`: NAME=VALUE. `pipelining` requests leave in one write; `upload` bytes go up.
local batch

function init(args)
  local options = {}
  for _, word in ipairs(args) do
    local name, value = word:match("^(%w+)=(%d+)$")
    if name then options[name] = tonumber(value) end
  end
  if options.upload and options.upload > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("0123456789abcdef", options.upload / 16)
  end
  batch = string.rep(wrk.format(), options.pipelining or 1)
end

function request()
  return batch
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50_us": %f, "p99_us": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
