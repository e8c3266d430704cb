// A worker thread of undici-thread-interceptor: what mesh_app.py is for Python.
//
// A raw handler with a content-length on small bodies: the fast path of the library, which sends
// such a body with the head instead of opening a channel for it.

import { parentPort } from 'node:worker_threads'
import { wire } from 'undici-thread-interceptor'

const SMALL = Buffer.from('{"hello":"world"}')
const PIECE = Buffer.from(Array.from({ length: 65536 }, (_, index) => index % 256))
const LARGE = Buffer.concat(Array.from({ length: 16 }, () => PIECE))
const HUGE_PIECES = 16 * 1024
const PATIENCE = 50 // milliseconds

function head (res, type, length) {
  res.writeHead(200, { 'content-type': type, 'content-length': length })
}

function huge (res) {
  head(res, 'application/octet-stream', HUGE_PIECES * PIECE.length)
  let left = HUGE_PIECES
  const more = () => {
    while (left > 0) {
      left--
      if (!res.write(PIECE)) {
        res.once('drain', more)
        return
      }
    }
    res.end()
  }
  more()
}

function server (req, res) {
  switch (req.url) {
    case '/':
      head(res, 'application/json', SMALL.length)
      res.end(SMALL)
      break
    case '/1m':
      head(res, 'application/octet-stream', LARGE.length)
      res.end(LARGE)
      break
    case '/1g':
      huge(res)
      break
    case '/slow':
      setTimeout(() => {
        head(res, 'application/json', SMALL.length)
        res.end(SMALL)
      }, PATIENCE)
      break
  }
}

wire({ server, port: parentPort })
