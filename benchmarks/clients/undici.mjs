// undici: one Pool, in two ways: its dispatch (`--api dispatch`) and its request.
//
// The same protocol as the Python drivers (harness.py): arguments in, a closed loop of
// `concurrency` requests, a warm-up, `ready`, and for each `go` on the standard input a measured
// phase and one JSON line. The clock is read once per request. What is not prescribed is done the way that measured fastest: small bodies of
// request() are read by a data listener (text, json, bytes, dump, arrayBuffer and the iterator
// cost more or the same), large ones by bytes(); a handler dispatches its next request from its
// end callback. `--handler legacy` uses the callbacks of undici 6 (onConnect, onHeaders, ...),
// which undici 7 still calls directly, while the documented ones go through a wrapper.
//
// HTTP/2: undici 7 puts as many streams on a connection as `pipelining` says, so it says the
// scenario's number, which `maxConcurrentStreams` (100 by default) never undercuts here.

import { readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Client, Pool } from 'undici'

const TRICKLE = 1 << 20 // bytes per second that the reader of a slow stream takes
const SLOW_PATH = '/100m'
const CHUNK = Buffer.from(Array.from({ length: 65536 }, (_, index) => index % 256))

const text = (value) => ({ type: 'string', default: value })
const { values } = parseArgs({
  options: {
    api: text('request'), handler: text('documented'), origin: text(''), path: text('/'), kind: text('get'), size: text('13'),
    upload: text('0'), concurrency: text('50'), connections: text('50'), pipelining: text('1'),
    seconds: text('3'), warmup: text('0.5'), ca: text(''), loop: text(''), http: text('1')
  }
})
const job = { ...values }
for (const name of ['size', 'upload', 'concurrency', 'connections', 'pipelining', 'seconds', 'warmup', 'http']) {
  job[name] = Number(values[name])
}

const multiplexed = job.http === 2
const slots = job.kind === 'beside' ? job.concurrency - 1 : job.concurrency
const pool = new Pool(job.origin, {
  connections: job.connections,
  pipelining: multiplexed ? Math.ceil(job.concurrency / job.connections) : job.pipelining,
  keepAliveTimeout: 600e3,
  allowH2: multiplexed,
  connect: job.ca ? { ca: readFileSync(job.ca) } : {},
  // A connector that the Pool makes for all its clients knows nothing of prior knowledge.
  ...(multiplexed && !job.ca && {
    factory: (origin, { connect, ...rest }) => new Client(origin, { ...rest, useH2c: true })
  })
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
  beside: () => fixed,
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
  await Promise.all(Array.from({ length: slots }, slot))
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
  const state = { latencies: [], received: 0, open: slots, deadline }
  const done = new Promise((resolve, reject) => Object.assign(state, { resolve, reject }))
  for (let index = 0; index < slots; index++) pool.dispatch(options(), new Handler(state))
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

// A reader that takes TRICKLE bytes per second of a huge body, until it is stopped.
function slowReader () {
  const state = { received: 0, failed: null, stop: null }
  const begun = new Promise((resolve, reject) => {
    const fail = (error) => {
      state.failed ??= error ?? new Error('the slow stream ended too early')
      reject(state.failed)
    }
    const took = (size) => {
      state.received += size
      resolve()
      return sleep(size / TRICKLE * 1e3)
    }
    const viaBody = async () => {
      const { body } = await pool.request({ path: SLOW_PATH, method: 'GET' })
      state.stop = () => body.destroy()
      for await (const chunk of body) await took(chunk.length)
    }
    if (job.api === 'request') {
      viaBody().then(fail, fail)
      return
    }
    pool.dispatch({ path: SLOW_PATH, method: 'GET' }, {
      onRequestStart (controller) { state.stop = () => controller.abort(new Error('stopped')) },
      onResponseStart () {},
      onResponseData (controller, chunk) {
        controller.pause()
        took(chunk.length).then(() => controller.resume())
      },
      onResponseEnd: () => fail(),
      onResponseError: (controller, error) => fail(error)
    })
  })
  return { state, begun }
}

async function phase () {
  const idle = job.kind === 'idle'
  const cpu = process.cpuUsage()
  const started = performance.now()
  const { latencies, received } = await run(idle ? 0 : started + job.seconds * 1e3)
  const seconds = (performance.now() - started) / 1e3
  const used = process.cpuUsage(cpu)
  if (received !== latencies.length * job.size) {
    throw new Error(`${latencies.length} requests gave ${received} bytes, not ${job.size} each`)
  }
  const sorted = Float64Array.from(latencies).sort()
  return {
    requests: sorted.length,
    seconds,
    cpu_seconds: (used.user + used.system) / 1e6,
    p50_us: percentile(sorted, 0.5),
    p99_us: percentile(sorted, 0.99)
  }
}

async function measure () {
  try { writeFileSync('/proc/self/clear_refs', '5') } catch {} // refused: the peak has the start-up too
  let result
  if (job.kind === 'beside') {
    const alone = await phase()
    const started = performance.now()
    const { state, begun } = slowReader()
    await begun
    result = await phase()
    if (state.failed) throw state.failed
    result.alone = alone
    result.slow_bytes_per_second = Math.round(state.received / (performance.now() - started) * 1e3)
    state.stop()
  } else {
    result = await phase()
  }
  result.max_rss_kib = memoryKib('VmHWM')
  result.rss_before_kib = before
  result.version = createRequire(import.meta.url)('undici/package.json').version
  if (job.kind === 'idle') {
    globalThis.gc?.()
    result.connections = openSockets() - sockets
    result.rss_after_kib = memoryKib('VmRSS')
  }
  return result
}

const before = memoryKib('VmRSS')
const sockets = openSockets()
if (job.kind !== 'idle') await run(performance.now() + job.warmup * 1e3)
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'go') console.log(JSON.stringify(await measure()))
}
process.exit(0)
