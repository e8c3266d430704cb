// Calls the collector of kit.py through both faces: `node faces_client.js ADDRESS PROTOS`; prints what it saw as JSON.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const [address, protos] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();

const shop = protobuf.parse(`syntax = "proto3"; package kit.shop;
  message Order { string sku = 1; int64 count = 2; }
  service OrderService {
    rpc Create(Order) returns (Order); rpc List(Order) returns (stream Order); rpc Sum(stream Order) returns (Order);
    rpc Chat(stream Order) returns (stream Order); rpc Fail(Order) returns (Order); rpc Hold(Order) returns (Order);
  }`, { keepCase: true }).root;
const Order = shop.lookupType('kit.shop.Order');
const encode = (value) => Buffer.from(Order.encode(Order.fromObject(value)).finish());
const decode = (bytes) => Order.toObject(Order.decode(bytes), { longs: Number, defaults: true });
const method = (name, requestStream, responseStream) => ({
  path: `/kit.shop.OrderService/${name}`,
  requestStream,
  responseStream,
  requestSerialize: encode,
  requestDeserialize: decode,
  responseSerialize: encode,
  responseDeserialize: decode,
});
const Orders = grpc.makeGenericClientConstructor({
  Create: method('Create', false, false),
  List: method('List', false, true),
  Sum: method('Sum', true, false),
  Chat: method('Chat', true, true),
  Fail: method('Fail', false, false),
  Hold: method('Hold', false, false),
}, 'kit.shop.OrderService');

const metadata = (pairs = {}) => {
  const made = new grpc.Metadata();
  for (const [name, value] of Object.entries({ 'x-dodici-namespace': 'shop', ...pairs })) made.set(name, value);
  return made;
};
const unary = (client, name, request, meta = metadata(), options = {}) => new Promise((resolve) => {
  let trailing = {};
  client[name](request, meta, options, (error, answer) => resolve(error
    ? { code: error.code, details: error.details, metadata: error.metadata.getMap() }
    : { answer, trailing })).on('status', (status) => { Object.assign(trailing, status.metadata.getMap()); });
});
const collected = (call) => new Promise((resolve, reject) => {
  const got = [];
  call.on('data', (each) => got.push(each)).on('end', () => resolve(got)).on('error', reject);
});

async function main() {
  const saw = {};
  const orders = new Orders(address, credentials);
  saw.create = await unary(orders, 'Create', { sku: 'a', count: 1 }, metadata({ 'x-sent': 'from js' }));
  saw.list = await collected(orders.List({ sku: 'x', count: 3 }, metadata()));
  saw.sum = await new Promise((resolve, reject) => {
    const call = orders.Sum(metadata(), (error, answer) => (error ? reject(error) : resolve(answer)));
    call.write({ sku: 'a', count: 1 });
    call.end({ sku: 'b', count: 2 });
  });
  const chat = orders.Chat(metadata());
  const answers = collected(chat);
  chat.write({ sku: 'c', count: 1 });
  chat.end({ sku: 'c', count: 2 });
  saw.chat = await answers;
  saw.abort = await unary(orders, 'Fail', { sku: 'abort', count: 404 });
  saw.bug = await unary(orders, 'Fail', { sku: 'bug' });
  saw.nowhere = await unary(orders, 'Create', {}, metadata({ 'x-dodici-namespace': 'nowhere' }));
  saw.target = await unary(orders, 'Create', {}, metadata({ 'x-dodici-target': 'elsewhere' }));
  saw.nameless = await unary(orders, 'Create', {}, new grpc.Metadata());
  // On a busy machine it may pass before the handler has begun.
  for (let wait = 100, begun = {}; !begun.answer; wait *= 2) {
    saw.late = await unary(orders, 'Hold', { sku: 'late' }, metadata(), { deadline: Date.now() + wait });
    begun = await unary(orders, 'Hold', { sku: 'wait late started' }, metadata(), { deadline: Date.now() + 1000 });
  }
  saw.lateSeen = await unary(orders, 'Hold', { sku: 'wait late cancelled' });
  saw.cancel = await new Promise((resolve) => {
    const call = orders.Hold({ sku: 'gone' }, metadata(), (error) => resolve({ code: error.code }));
    unary(orders, 'Hold', { sku: 'wait gone started' }).then(() => call.cancel());
  });
  saw.cancelSeen = await unary(orders, 'Hold', { sku: 'wait gone cancelled' });

  // A cancellation that a busy server reads much later than the end of the input looks like one that was complete.
  for (let tries = 0; tries < 5 && !(saw.cancelChatSeen || {}).answer; tries += 1) {
    saw.cancelChat = await new Promise((resolve) => {
      const call = orders.Chat(metadata());
      call.on('error', (error) => resolve({ code: error.code })).on('data', () => call.cancel());
      call.write({ sku: 'chat', count: 1 });
    });
    const soon = { deadline: Date.now() + 3000 };
    saw.cancelChatSeen = await unary(orders, 'Hold', { sku: 'wait chat cancelled' }, metadata(), soon);
  }
  saw.refused = await Promise.all(Array.from({ length: 10 }, () => new Promise((resolve) => {
    const call = orders.Chat(metadata({ 'x-dodici-target': 'elsewhere' }));
    call.on('data', () => {}).on('error', (error) => resolve({ code: error.code, details: error.details }));
    for (let number = 0; number < 50; number += 1) call.write({ sku: 'x'.repeat(1000), count: number });
    call.end();
  })));

  const definition = await loader.load('collector.proto', { includeDirs: [protos], keepCase: true, defaults: true });
  const { CollectiveDispatcher } = grpc.loadPackageDefinition(definition).collector;
  const collector = new CollectiveDispatcher(address, credentials);
  const input = { type_url: 'type.googleapis.com/google.protobuf.StringValue', value: Buffer.from([10, 2, 104, 105]) };
  const asked = { namespace: 'plain', service: { service_name: 'Echo' }, method_name: 'Say', input };
  saw.serve = await unary(collector, 'Serve', asked, new grpc.Metadata());
  saw.dispatch = await unary(collector, 'Dispatch', asked, new grpc.Metadata());
  saw.unknown = await unary(collector, 'Dispatch', { ...asked, method_name: 'Nothing' }, new grpc.Metadata());
  console.log(JSON.stringify(saw));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
