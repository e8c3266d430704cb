// undici-thread-interceptor: workers in threads, called through an Agent that it is composed onto.
//
// The protocol of all drivers (harness.py): arguments in, a warm-up, `ready`, and for each `go` a
// phase and one JSON line. `--api` is request, as its README shows it, or dispatch with documented
// handlers. Small bodies are read by a data listener, the fastest way of reading them, large ones by
// bytes(). Each answer's status and length are checked, the content of each small one, and that of
// the first large one.

import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { Agent } from 'undici'
import { createThreadInterceptor } from 'undici-thread-interceptor'

const SMALL = Buffer.from('{"hello":"world"}')
const STALL = 1000 // milliseconds for which a reader stops
const FIRST = 1 << 20 // bytes that it has taken before
const ABORTED = 10_000 // requests
// Measured: the processor time per request goes on falling for 40,000 requests, from 255 to 160 us.
const JIT = 4 // times the warm-up of the others
const PATIENCE = 2 // milliseconds until a caller gives up

const text = (value) => ({ type: 'string', default: value })
const { values } = parseArgs({
  options: {
    api: text('request'), origin: text(''), path: text('/'), kind: text('get'), size: text('17'), http: text('1'),
    concurrency: text('50'), workers: text('1'), worker: text('thread'), seconds: text('3'), warmup: text('0.5')
  }
})
const job = { ...values }
for (const name of ['size', 'concurrency', 'workers', 'seconds', 'warmup']) job[name] = Number(values[name])

const interceptor = createThreadInterceptor({ domain: '.local' })
for (let index = 0; index < job.workers; index++) {
  await interceptor.route(new URL(job.origin).hostname.replace(/\.local$/, ''), new Worker(new URL('./worker.mjs', import.meta.url)))
}
const dispatcher = new Agent().compose(interceptor)
const url = job.origin + job.path
const small = job.size === SMALL.length

function check (status, length, body) {
  if (status !== 200 || length !== job.size) throw new Error(`answered ${status} with ${length} bytes, not 200 with ${job.size}`)
  if (small && !SMALL.equals(body)) throw new Error(`another body: ${body}`)
}

const read = small
  ? (body) => new Promise((resolve, reject) => {
      let whole
      body.on('data', (chunk) => { whole = whole === undefined ? chunk : Buffer.concat([whole, chunk]) })
        .on('end', () => resolve(whole)).on('error', reject)
    })
  : (body) => body.bytes()

async function get () {
  const { statusCode, body } = await dispatcher.request({ origin: job.origin, path: job.path, method: 'GET' })
  const whole = await read(body)
  check(statusCode, whole.byteLength, whole)
  return whole
}

async function stall () {
  const { statusCode, body } = await dispatcher.request({ origin: job.origin, path: job.path, method: 'GET' })
  let received = 0
  let stopped = false
  for await (const chunk of body) {
    received += chunk.length
    if (!stopped && received >= FIRST) {
      stopped = true
      await sleep(STALL)
    }
  }
  check(statusCode, received)
}

async function abort () {
  try {
    await dispatcher.request({
      origin: job.origin, path: job.path, method: 'GET', signal: AbortSignal.timeout(PATIENCE)
    })
  } catch (error) {
    if (error.name !== 'TimeoutError') throw error
    return true
  }
  return false // answered before it was given up
}

// `once` for as long as the phase lasts, or until it was true as often as `counted` says.
async function viaRequest (once, deadline, counted = Infinity) {
  const timed = counted === Infinity
  const latencies = []
  const slot = async () => {
    let started = performance.now()
    while (counted > 0) {
      counted--
      const done = await once()
      const ended = performance.now()
      if (timed || done) latencies.push(ended - started)
      else counted++
      if (timed && ended >= deadline) return
      started = ended
    }
  }
  await Promise.all(Array.from({ length: job.concurrency }, slot))
  return latencies
}

class Slot {
  constructor (state) {
    this.state = state
    this.started = performance.now()
    this.received = 0
    this.body = undefined
  }

  onRequestStart () {}

  onResponseStart (controller, status) {
    this.status = status
    this.received = 0
    this.body = undefined
  }

  onResponseData (controller, chunk) {
    this.received += chunk.length
    if (small) this.body = this.body === undefined ? chunk : Buffer.concat([this.body, chunk])
  }

  onResponseEnd () {
    const { state } = this
    try {
      check(this.status, this.received, this.body)
    } catch (error) {
      state.reject(error)
      return
    }
    const now = performance.now()
    state.latencies.push(now - this.started)
    if (now < state.deadline) {
      this.started = now
      dispatcher.dispatch(options, this)
    } else if (--state.open === 0) {
      state.resolve()
    }
  }

  onResponseError (controller, error) {
    this.state.reject(error)
  }
}
const options = { origin: job.origin, path: job.path, method: 'GET' }

async function viaDispatch (deadline) {
  const state = { latencies: [], open: job.concurrency, deadline }
  const done = new Promise((resolve, reject) => Object.assign(state, { resolve, reject }))
  for (let index = 0; index < job.concurrency; index++) dispatcher.dispatch(options, new Slot(state))
  await done
  return state.latencies
}

const run = {
  get: job.api === 'dispatch' ? viaDispatch : (deadline) => viaRequest(get, deadline),
  stall: (deadline) => viaRequest(stall, deadline),
  abort: (deadline) => viaRequest(abort, deadline, ABORTED)
}[job.kind]

const percentile = (sorted, share) =>
  Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 1e4) / 10

const require = createRequire(import.meta.url)
const version = `${require('undici-thread-interceptor/package.json').version} (undici ${require('undici/package.json').version}, Node ${process.versions.node})`

async function measure () {
  const started = performance.now()
  const latencies = await run(started + job.seconds * 1e3)
  const seconds = (performance.now() - started) / 1e3
  globalThis.gc?.()
  const sorted = Float64Array.from(latencies).sort()
  return {
    requests: sorted.length, seconds, p50_us: percentile(sorted, 0.5), p99_us: percentile(sorted, 0.99), version
  }
}

if (job.kind === 'get' && !small) {
  const pattern = Buffer.from(Array.from({ length: 65536 }, (_, index) => index % 256))
  const whole = Buffer.from(await get())
  for (let at = 0; at < whole.length; at += pattern.length) {
    if (!pattern.equals(whole.subarray(at, at + pattern.length))) throw new Error(`${url}: another body`)
  }
}
if (job.warmup && job.kind !== 'stall') {
  const rounds = job.kind === 'get' ? JIT : 1
  await run(performance.now() + job.warmup * rounds * 1e3)
}
globalThis.gc?.()
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'go') console.log(JSON.stringify(await measure()))
}
process.exit(0)
