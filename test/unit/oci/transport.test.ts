// How registries are reached: certificates, plain HTTP, proxies. Names that no DNS knows lead through a proxy of the test.

import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { proxyFor } from '#src/oci/http.js';
import { ImageStore } from '#src/oci/store.js';
import { run, Scratch } from '../../helpers/oci/images.js';
import { makeImage, OddRegistry } from '../../helpers/oci/odd-registry.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
const options = { auth: null, retry: { attempts: 1, delayMs: 1 } };
const image = makeImage('transport', 1000);
/** Where the proxy was told to connect to. */
const targets: string[] = [];
let registry: OddRegistry;
let proxy: Server;
let speaksTls = true;
let stores = 0;

const open = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });

beforeAll(async () => {
  registry = await OddRegistry.start();
  const files = ['-keyout', scratch.file('key'), '-out', scratch.file('crt'), '-days', '2'];
  const subject = ['-subj', '/CN=registry.test', '-addext', 'subjectAltName=DNS:registry.test'];
  run('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', ...files, ...subject);
  const [key, cert] = [readFileSync(scratch.file('key')), readFileSync(scratch.file('crt'))];
  proxy = createServer();
  // What asks for a tunnel gets to the registry, through TLS at the port where that is usual.
  proxy.on('connect', (request, socket) => {
    targets.push(request.url ?? '');
    socket.on('error', () => {});
    socket.write('HTTP/1.1 200 OK\r\n\r\n');
    const isTls = speaksTls && request.url?.endsWith(':443');
    const near = isTls ? new TLSSocket(socket, { isServer: true, key, cert }) : socket;
    near.on('error', () => socket.destroy());
    const far = connect(Number(registry.host.split(':')[1]), '127.0.0.1');
    far.on('error', () => near.destroy());
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
});

beforeEach(() => {
  registry.serve(image);
  targets.length = 0;
  speaksTls = true;
  const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  vi.stubEnv('HTTPS_PROXY', address);
  vi.stubEnv('HTTP_PROXY', address);
  for (const name of ['https_proxy', 'http_proxy', 'no_proxy', 'NO_PROXY']) vi.stubEnv(name, '');
});
afterEach(() => vi.unstubAllEnvs());

afterAll(() => {
  proxy.close();
  proxy.closeAllConnections();
  registry.close();
  scratch.remove();
});

test('a certificate that nobody vouches for is refused', async () => {
  const store = await open();
  await expect(store.pull('registry.test/app', options)).rejects.toMatchObject({
    code: 'VMF_REGISTRY',
    message: expect.stringContaining('self-signed certificate'),
  });
  expect(registry.requests).toEqual([]);
});

test('insecure takes such a certificate', async () => {
  const store = await open();
  await store.pull('registry.test/app', { ...options, insecure: true });
  expect(new Set(targets)).toEqual(new Set(['registry.test:443']));
});

test('insecure takes plain HTTP, where there is no HTTPS', async () => {
  speaksTls = false;
  const store = await open();
  await store.pull('registry.test/app', { ...options, insecure: true });
  expect(targets.at(-1)).toBe('registry.test:80');
});

test('without it nothing is sent in the clear', async () => {
  speaksTls = false;
  const store = await open();
  const pulling = store.pull('registry.test/app', options);
  await expect(pulling).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
  expect(new Set(targets)).toEqual(new Set(['registry.test:443']));
});

test('Docker Hub is asked under its own name', async () => {
  const store = await open();
  await expect(store.pull('alpine', options)).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
  expect(new Set(targets)).toEqual(new Set(['registry-1.docker.io:443']));
});

test('a port that speaks something else is an error', async () => {
  const server = createTcpServer((socket) => socket.end('SSH-2.0-OpenSSH\r\n'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const store = await open();
  const pulling = store.pull(`127.0.0.1:${port}/app`, options);
  await expect(pulling).rejects.toMatchObject({ code: 'VMF_REGISTRY' });
  server.close();
});

test.each([
  ['https://r.test/', {}, undefined],
  ['https://r.test/', { HTTPS_PROXY: 'http://p' }, 'http://p'],
  ['https://r.test/', { HTTP_PROXY: 'http://p' }, undefined],
  ['http://r.test/', { http_proxy: 'http://low', HTTP_PROXY: 'http://up' }, 'http://low'],
  ['https://a.r.test/', { HTTPS_PROXY: 'http://p', NO_PROXY: 'x, .r.test' }, undefined],
  ['https://r.test/', { HTTPS_PROXY: 'http://p', NO_PROXY: '*.r.test' }, undefined],
  ['https://tr.test/', { HTTPS_PROXY: 'http://p', NO_PROXY: 'r.test' }, 'http://p'],
  ['https://r.test/', { HTTPS_PROXY: 'http://p', NO_PROXY: '*' }, undefined],
  ['https://127.0.0.1/', { HTTPS_PROXY: 'http://p' }, undefined],
])('the proxy for %s in %j is %s', (url, env, expected) => {
  expect(proxyFor(new URL(url), env)).toBe(expected);
});
