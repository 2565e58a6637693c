// A fork point in Node.js: import what is slow, wait, and go on in every clone. docs/fork-points.md describes the bytes.
import { connect } from 'node:net';

/** Resolves in each clone with its payload and the stream to the host. */
export async function forkPoint(name, path = '/run/vmfork/fork-point.sock') {
  const stream = connect({ path, allowHalfOpen: true });
  stream.write(`FORK-POINT 1 ${name}\n`);
  let bytes = Buffer.alloc(0);
  const whole = () => bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32LE();
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    bytes = Buffer.concat([bytes, chunk]);
    if (whole()) break;
  }
  const end = 4 + bytes.readUInt32LE();
  if (bytes.length > end) stream.unshift(bytes.subarray(end));
  const [argc, envc] = [bytes.readUInt32LE(4), bytes.readUInt32LE(8)];
  const texts = [];
  let at = 12;
  for (let zero; texts.length < argc + envc; at = zero + 1) {
    zero = bytes.indexOf(0, at);
    texts.push(bytes.toString('utf8', at, zero));
  }
  const env = Object.fromEntries(texts.slice(argc).map((text) => text.split(/=(.*)/s, 2)));
  return { argv: texts.slice(0, argc), env, data: bytes.subarray(at, end), stream };
}

if (import.meta.filename === process.argv[1]) {
  const { argv, env, data, stream } = await forkPoint('node');
  stream.end(`${JSON.stringify({ argv, env, data: data.toString(), pid: process.pid })}\n`);
}
