// The service of the gRPC tests on grpc-js: `node grpc_server.js MAX_CONCURRENT_STREAMS [CHAIN KEY]`.
// What the methods do is said in grpc_server.py, which is the same service on grpcio.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');

const [limit, chain, key] = process.argv.slice(2);

const same = (bytes) => bytes;
const method = (name, requestStream, responseStream) => ({
  path: `/test.Echo/${name}`,
  requestStream,
  responseStream,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
});

const notes = new Map();
function note(key) {
  if (!notes.has(key)) {
    let set;
    const event = new Promise((resolve) => { set = resolve; });
    notes.set(key, { event, set });
  }
  return notes.get(key);
}

const first = (call, name) => call.metadata.get(name)[0];

function unary(call, callback) {
  const initial = new grpc.Metadata();
  const trailing = new grpc.Metadata();
  let any = false;
  for (const name of Object.keys(call.metadata.getMap())) {
    if (!name.startsWith('x-echo')) continue;
    for (const value of call.metadata.get(name)) {
      any = true;
      initial.add(name, value);
      trailing.add(name.replace('x-echo', 'x-trailing'), value);
    }
  }
  if (any) call.sendMetadata(initial);
  const details = first(call, 'x-details-bin');
  if (details !== undefined) trailing.set('grpc-status-details-bin', details);
  const status = first(call, 'x-status');
  if (status !== undefined) {
    const text = first(call, 'x-text-bin');
    callback({ code: Number(status), details: text === undefined ? '' : text.toString(), metadata: trailing });
    return;
  }
  callback(null, call.request, trailing);
}

function repeat(call) {
  let left = Number(first(call, 'x-count'));
  const go = () => {
    while (left > 0) {
      left -= 1;
      if (!call.write(call.request)) {
        call.once('drain', go);
        return;
      }
    }
    call.end();
  };
  go();
}

function collect(call, callback) {
  let count = 0;
  let total = 0;
  call.on('data', (message) => { count += 1; total += message.length; });
  call.on('end', () => callback(null, Buffer.from(`${count} ${total}`)));
}

function chat(call) {
  const key = first(call, 'x-note');
  if (key !== undefined) call.on('cancelled', () => note(key).set());
  const ready = new grpc.Metadata();
  ready.set('x-ready', 'yes');
  call.sendMetadata(ready);
  call.on('data', (message) => call.write(message));
  call.on('end', () => call.end());
}

function wait(call) {
  call.on('cancelled', () => note(call.request.toString()).set());
  call.write(Buffer.from('waiting'));
}

function noted(call, callback) {
  note(call.request.toString()).event.then(() => callback(null, Buffer.from('yes')));
}

function seen(call, callback) {
  const lines = [];
  for (const name of Object.keys(call.metadata.getMap())) {
    for (const value of call.metadata.get(name)) {
      lines.push(`${name}=${typeof value === 'string' ? value : value.toString('hex')}`);
    }
  }
  const deadline = call.getDeadline();
  lines.push(`left=${deadline === Infinity ? '' : (deadline - Date.now()) / 1000}`);
  callback(null, Buffer.from(lines.join('\n')));
}

let present = 0;
let holding = [];
function peak(call, callback) {
  const wanted = Number(first(call, 'x-count'));
  present += 1;
  let answered = false;
  const answer = (most) => {
    if (answered) return;
    answered = true;
    clearTimeout(timer);
    callback(null, Buffer.from(String(most)));
    setImmediate(() => { present -= 1; });
  };
  const timer = setTimeout(() => answer(present), 200);
  holding.push(answer);
  if (present >= wanted) {
    const all = holding;
    holding = [];
    for (const one of all) one(present);
  }
}

const options = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
if (Number(limit)) options['grpc.max_concurrent_streams'] = Number(limit);
const server = new grpc.Server(options);
server.addService(
  {
    Unary: method('Unary', false, false),
    Repeat: method('Repeat', false, true),
    Collect: method('Collect', true, false),
    Chat: method('Chat', true, true),
    Wait: method('Wait', false, true),
    Noted: method('Noted', false, false),
    Seen: method('Seen', false, false),
    Peak: method('Peak', false, false),
  },
  { Unary: unary, Repeat: repeat, Collect: collect, Chat: chat, Wait: wait, Noted: noted, Seen: seen, Peak: peak },
);
const credentials = chain
  ? grpc.ServerCredentials.createSsl(null, [{ cert_chain: fs.readFileSync(chain), private_key: fs.readFileSync(key) }])
  : grpc.ServerCredentials.createInsecure();
server.bindAsync('127.0.0.1:0', credentials, (error, port) => {
  if (error) throw error;
  console.log(port);
});
