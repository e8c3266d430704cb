'use strict';
// An HTTP/2 server on Node's http2 that does what a test asks for in the path and the query.
//
//   node h2_server.js '{"cert": FILE, "key": FILE, "settings": {...}, "options": {...}}'
//
// It listens on two free loopback ports, TLS with ALPN h2 and cleartext with prior knowledge, and prints
// {"tls": PORT, "h2c": PORT}. `settings` are those that each connection begins with, `options` are http2's own.
//
//   /get                     `hello`
//   /bytes/N                 N bytes of the pattern with a content-length      /stream/N   the same without one
//   /echo                    the body back, as it comes
//   /digest                  JSON: method, size and sha256 of the body, trailers
//   /fields                  JSON: the request's fields as they came, in pairs
//   /status/N                that status, no body
//   /trailers                `body` and trailers                               /trailers-only   trailers without a body
//   /hints?count=N           N times 103, then `hinted`
//   /reset?code=N&when=W     RST_STREAM; W is head (before it), body (after some of it), end (after all of an answer to
//                            an upload that was not read, as RFC 9113 section 8.1 allows)
//   /refuse-once?key=K       REFUSED_STREAM the first time, then `attempt 2`
//   /goaway?code=N&last=ID   GOAWAY, then `told`; last defaults to the highest stream so far, `after=end` answers first;
//                            with `once=K` not again when it comes back because of its own doing
//   /shutdown                GOAWAY with NO_ERROR that lets open streams end, then `told`
//   /destroy?code=N          the connection ends at once                       /cut   the socket ends without a GOAWAY
//   /settings?NAME=VALUE     SETTINGS; `applied` when they are acknowledged
//   /ping                    PING; `pong` when it is acknowledged
//   /large-fields?count=N&size=N     that many response fields of that size
//   /cookies?count=N         that many set-cookie
//   /short                   less than its content-length                      /long    more than its content-length
//   /push                    a push where the client allows it; says `pushed` or `not allowed`
//   /strange                 ALTSVC, ORIGIN and PRIORITY frames, then `strange`
//   /hold?name=X             sets X:started, waits for X, then `held`; sets X:closed:CODE if it was reset instead
//   /drip?name=X             a head at once, then as /hold
//   /set/X   /wait/X         the events of /hold
//   /stats                   JSON: connections, open, highest number of streams at once, the client's settings
//
// CONNECT of `echo:1` echoes, of anything else is refused with 403; extended CONNECT (RFC 8441) of /echo echoes.

const crypto = require('crypto');
const fs = require('fs');
const http2 = require('http2');

const given = JSON.parse(process.argv[2] || '{}');
const settings = {enableConnectProtocol: true, ...given.settings};
const stats = {connections: 0, open: 0, streams: 0, most: 0, settings: {}};
const seen = new Map(); // event -> promise and its resolve
const keys = new Set(); // of /refuse-once and /goaway
const sockets = new Map(); // by the client's port

const unit = Buffer.alloc(256 * 257);
for (let i = 0; i < unit.length; i++) unit[i] = i & 255;

function* pattern(size) {
  for (let at = 0; at < size; at += unit.length) yield unit.subarray(0, Math.min(unit.length, size - at));
}

function event(name) {
  if (!seen.has(name)) {
    const made = {};
    made.happened = new Promise((resolve) => { made.set = resolve; });
    seen.set(name, made);
  }
  return seen.get(name);
}

function answer(stream, body, fields = {}) {
  if (stream.destroyed || stream.closed) return;
  stream.respond({':status': 200, 'content-length': Buffer.byteLength(body), ...fields});
  stream.end(body);
}

async function send(stream, size) {
  for (const piece of pattern(size)) {
    if (stream.destroyed) return;
    if (!stream.write(piece)) await new Promise((resume) => { stream.once('drain', resume).once('close', resume); });
  }
  stream.end();
}

function held(stream, name, end) {
  event(`${name}:started`).set();
  event(name).happened.then(end);
  stream.on('close', () => event(`${name}:closed:${stream.rstCode}`).set());
}

const paths = {
  get: (stream) => answer(stream, 'hello'),
  bytes(stream, {last}) {
    stream.respond({':status': 200, 'content-length': last});
    return send(stream, Number(last));
  },
  stream(stream, {last}) {
    stream.respond({':status': 200});
    return send(stream, Number(last));
  },
  echo(stream) {
    stream.respond({':status': 200});
    stream.pipe(stream);
  },
  digest(stream, {headers}) {
    const hash = crypto.createHash('sha256');
    let size = 0, trailers = {};
    stream.on('trailers', (fields) => { trailers = fields; });
    stream.on('data', (chunk) => { hash.update(chunk); size += chunk.length; });
    stream.on('end', () => {
      answer(stream, JSON.stringify({method: headers[':method'], size, sha256: hash.digest('hex'), trailers}));
    });
  },
  fields(stream, {raw}) {
    const pairs = [];
    for (let i = 0; i < raw.length; i += 2) pairs.push([raw[i], raw[i + 1]]);
    answer(stream, JSON.stringify(pairs));
  },
  status(stream, {last}) {
    stream.respond({':status': Number(last)}, {endStream: true});
  },
  trailers(stream) {
    stream.on('wantTrailers', () => stream.sendTrailers({'x-sum': '42', 'x-many': ['one', 'two']}));
    stream.respond({':status': 200}, {waitForTrailers: true});
    stream.end('body');
  },
  'trailers-only'(stream) {
    stream.on('wantTrailers', () => stream.sendTrailers({'x-sum': '0'}));
    stream.respond({':status': 200}, {waitForTrailers: true});
    stream.end();
  },
  hints(stream, {query}) {
    for (let i = 0; i < Number(query.get('count') || 1); i++) {
      stream.additionalHeaders({':status': 103, link: `</${i}.css>; rel=preload`});
    }
    answer(stream, 'hinted');
  },
  reset(stream, {query}) {
    const code = Number(query.get('code'));
    if (query.get('when') === 'head') return stream.close(code);
    if (query.get('when') === 'end') {
      stream.respond({':status': 200});
      return stream.end('early', () => stream.close(code));
    }
    stream.respond({':status': 200}, {waitForTrailers: true}); // or close() would send END_STREAM first
    return stream.write('some', () => setImmediate(() => stream.close(code)));
  },
  'refuse-once'(stream, {query}) {
    const key = query.get('key');
    if (keys.has(key)) return answer(stream, 'attempt 2');
    keys.add(key);
    return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
  },
  goaway(stream, {query}) {
    const {session} = stream;
    const key = query.get('once');
    if (keys.has(key)) return answer(stream, 'told before');
    if (key) keys.add(key);
    const last = query.has('last') ? Number(query.get('last')) : undefined;
    const tell = () => session.goaway(Number(query.get('code') || 0), last, Buffer.from('as asked'));
    if (query.get('after') === 'end') stream.on('close', tell);
    else tell();
    return answer(stream, 'told');
  },
  shutdown(stream) {
    stream.session.close();
    answer(stream, 'told');
  },
  destroy: (stream, {query}) => stream.session.destroy(undefined, Number(query.get('code') || 0)),
  cut: (stream) => sockets.get(stream.session.socket.remotePort).resetAndDestroy(),
  settings(stream, {query}) {
    const changed = {};
    for (const [name, value] of query) changed[name] = value === 'true' ? true : Number(value);
    stream.session.settings(changed, () => answer(stream, 'applied'));
  },
  ping(stream) {
    stream.session.ping(Buffer.from('12345678'), (error, took, payload) => {
      answer(stream, error ? String(error) : `pong ${payload}`);
    });
  },
  'large-fields'(stream, {query}) {
    const fields = {};
    for (let i = 0; i < Number(query.get('count')); i++) fields[`x-large-${i}`] = 'v'.repeat(Number(query.get('size')));
    answer(stream, 'large', fields);
  },
  cookies(stream, {query}) {
    const cookies = Array.from({length: Number(query.get('count'))}, (_, i) => `c${i}=${i}; path=/`);
    answer(stream, 'cookies', {'set-cookie': cookies});
  },
  short(stream) {
    stream.respond({':status': 200, 'content-length': 10});
    stream.end('12345');
  },
  long(stream) {
    stream.respond({':status': 200, 'content-length': 3});
    stream.end('12345');
  },
  push(stream) {
    if (!stream.pushAllowed) return answer(stream, 'not allowed');
    return stream.pushStream({':path': '/pushed'}, (error, pushed) => {
      pushed.respond({':status': 200});
      pushed.end('a push');
      answer(stream, 'pushed');
    });
  },
  strange(stream) {
    stream.session.altsvc('h2=":1"', stream.id);
    stream.session.origin('https://example.com');
    stream.priority({weight: 17, parent: 0});
    answer(stream, 'strange');
  },
  hold: (stream, {query}) => held(stream, query.get('name'), () => answer(stream, 'held')),
  drip(stream, {query}) {
    stream.respond({':status': 200});
    held(stream, query.get('name'), () => stream.end('held'));
  },
  set(stream, {last}) {
    event(last).set();
    answer(stream, 'set');
  },
  wait: (stream, {last}) => event(last).happened.then(() => answer(stream, 'happened')),
  stats: (stream) => answer(stream, JSON.stringify({...stats, settings: stream.session.remoteSettings})),
};

function connect(stream, headers) {
  const accepted = headers[':protocol'] ? headers[':path'] === '/echo' : headers[':authority'] === 'echo:1';
  if (!accepted) return stream.respond({':status': 403}, {endStream: true});
  stream.respond({':status': 200, 'x-protocol': headers[':protocol'] || 'none'});
  return stream.pipe(stream);
}

function serve(server) {
  server.on('connection', (socket) => {
    const port = socket.remotePort;
    sockets.set(port, socket);
    socket.on('close', () => sockets.delete(port));
  });
  server.on('session', (session) => {
    stats.connections++;
    stats.open++;
    session.on('close', () => { stats.open--; });
    session.on('error', () => {}); // clients that break the connection are what this is for
  });
  server.on('sessionError', () => {});
  server.on('stream', (stream, headers, flags, raw) => {
    stats.most = Math.max(stats.most, ++stats.streams);
    stream.on('close', () => { stats.streams--; });
    stream.on('error', () => {});
    if (headers[':method'] === 'CONNECT') return connect(stream, headers);
    const [path, text] = headers[':path'].split('?');
    const words = path.split('/');
    const handler = paths[words[1]];
    if (!handler) return stream.respond({':status': 404}, {endStream: true});
    return handler(stream, {headers, raw, last: words[2], query: new URLSearchParams(text)});
  });
  return new Promise((listening) => {
    server.listen(0, '127.0.0.1', () => listening(server.address().port));
  });
}

const options = {settings, ...given.options};
const secure = {...options, cert: fs.readFileSync(given.cert), key: fs.readFileSync(given.key)};
Promise.all([serve(http2.createSecureServer(secure)), serve(http2.createServer(options))])
  .then(([tls, h2c]) => console.log(JSON.stringify({tls, h2c})));
