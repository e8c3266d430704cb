// undici: one Pool, in two ways: its dispatch (`--api dispatch`) and its request.
//
// The same protocol as the Python drivers (harness.py): arguments in, a closed loop of
// `concurrency` requests, a warm-up, a measured phase, one JSON line out. The clock is read once
// per request. What is not prescribed is done the way that measured fastest: small bodies of
// request() are read by a data listener (text, json, bytes, dump, arrayBuffer and the iterator
// cost more or the same), large ones by bytes(); a handler dispatches its next request from its
// end callback. `--handler legacy` uses the callbacks of undici 6 (onConnect, onHeaders, ...),
// which undici 7 still calls directly, while the documented ones go through a wrapper.

import { readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { Pool } from 'undici'

const CHUNK = Buffer.from(Array.from({ length: 65536 }, (_, index) => index % 256))

const text = (value) => ({ type: 'string', default: value })
const { values } = parseArgs({
  options: {
    api: text('request'), handler: text('documented'), origin: text(''), path: text('/'), kind: text('get'), size: text('13'),
    upload: text('0'), concurrency: text('50'), connections: text('50'), pipelining: text('1'),
    seconds: text('3'), warmup: text('0.5'), ca: text(''), loop: text('')
  }
})
const job = { ...values }
for (const name of ['size', 'upload', 'concurrency', 'connections', 'pipelining', 'seconds', 'warmup']) {
  job[name] = Number(values[name])
}

const pool = new Pool(job.origin, {
  connections: job.connections,
  pipelining: job.pipelining,
  keepAliveTimeout: 600e3,
  connect: job.ca ? { ca: readFileSync(job.ca) } : {}
})
const payload = job.kind === 'send' ? Buffer.alloc(job.upload) : CHUNK
for (let at = CHUNK.length; at < payload.length; at += CHUNK.length) CHUNK.copy(payload, at)

async function * chunks () {
  for (let at = 0; at < job.upload; at += CHUNK.length) yield CHUNK
}

// What is sent: made once where it does not change.
let number = 0
// Without blocking: false a pipelined request waits for the head of the one before it.
const fixed = job.pipelining === 1 ? { path: job.path, method: 'GET' } : { path: job.path, method: 'GET', blocking: false }
const options = {
  get: () => fixed,
  idle: () => fixed,
  stream: () => fixed,
  distinct: () => ({ path: `${job.path}?n=${number++}`, method: 'GET' }),
  send: () => ({ path: job.path, method: 'POST', body: payload }),
  'send-stream': () => ({ path: job.path, method: 'POST', body: chunks() })
}[job.kind]

async function viaRequest (deadline) {
  const latencies = []
  let received = 0
  const read = job.kind === 'stream'
    ? async (body) => { for await (const chunk of body) received += chunk.length }
    : job.size > CHUNK.length
      ? async (body) => {
        const whole = await body.bytes()
        received += whole.byteLength // not `+= await`, which would add to an old sum
      }
      : (body) => new Promise((resolve, reject) => {
          body.on('data', (chunk) => { received += chunk.length }).on('end', resolve).on('error', reject)
        })
  const slot = async () => {
    let started = performance.now()
    while (true) {
      const { body } = await pool.request(options())
      await read(body)
      const ended = performance.now()
      latencies.push(ended - started)
      if (ended >= deadline) return
      started = ended
    }
  }
  await Promise.all(Array.from({ length: job.concurrency }, slot))
  return { latencies, received }
}

class Slot {
  constructor (state) {
    this.state = state
    this.started = performance.now()
  }

  onRequestStart () {}

  onResponseStart () {}

  onResponseData (controller, chunk) {
    this.state.received += chunk.length
  }

  onResponseEnd () {
    const { state } = this
    const now = performance.now()
    state.latencies.push(now - this.started)
    if (now < state.deadline) {
      this.started = now
      pool.dispatch(options(), this)
    } else if (--state.open === 0) {
      state.resolve()
    }
  }

  onResponseError (controller, error) {
    this.state.reject(error)
  }
}

class LegacySlot {
  constructor (state) {
    this.state = state
    this.started = performance.now()
  }

  onConnect () {}

  onHeaders () {
    return true
  }

  onData (chunk) {
    this.state.received += chunk.length
    return true
  }

  onError (error) {
    this.state.reject(error)
  }
}
LegacySlot.prototype.onComplete = Slot.prototype.onResponseEnd

async function viaDispatch (deadline) {
  const Handler = job.handler === 'legacy' ? LegacySlot : Slot
  const state = { latencies: [], received: 0, open: job.concurrency, deadline }
  const done = new Promise((resolve, reject) => Object.assign(state, { resolve, reject }))
  for (let index = 0; index < job.concurrency; index++) pool.dispatch(options(), new Handler(state))
  await done
  return state
}

function memoryKib (field) {
  const line = readFileSync('/proc/self/status', 'utf8').split('\n').find((each) => each.startsWith(field + ':'))
  return line ? Number(line.split(/\s+/)[1]) : 0
}

function openSockets () {
  let count = 0
  for (const name of readdirSync('/proc/self/fd')) {
    try {
      if (readlinkSync(`/proc/self/fd/${name}`).startsWith('socket:')) count++
    } catch {} // the descriptor of the listing itself is gone by now
  }
  return count
}

const percentile = (sorted, share) =>
  Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 1e4) / 10

const run = job.api === 'dispatch' ? viaDispatch : viaRequest
const before = memoryKib('VmRSS')
const sockets = openSockets()
try { writeFileSync('/proc/self/clear_refs', '5') } catch {} // refused: the peak has the start-up too
const idle = job.kind === 'idle'
if (!idle) await run(performance.now() + job.warmup * 1e3)
const cpu = process.cpuUsage()
const started = performance.now()
const { latencies, received } = await run(idle ? 0 : started + job.seconds * 1e3)
const seconds = (performance.now() - started) / 1e3
const used = process.cpuUsage(cpu)
const peak = memoryKib('VmHWM')
if (received !== latencies.length * job.size) {
  throw new Error(`${latencies.length} requests gave ${received} bytes, not ${job.size} each`)
}
const sorted = Float64Array.from(latencies).sort()
const result = {
  requests: sorted.length,
  seconds,
  cpu_seconds: (used.user + used.system) / 1e6,
  p50_us: percentile(sorted, 0.5),
  p99_us: percentile(sorted, 0.99),
  max_rss_kib: peak,
  rss_before_kib: before,
  version: createRequire(import.meta.url)('undici/package.json').version
}
if (idle) {
  latencies.length = 0
  globalThis.gc?.()
  result.connections = openSockets() - sockets
  result.rss_after_kib = memoryKib('VmRSS')
}
process.stdout.write(JSON.stringify(result) + '\n', () => process.exit(0))
