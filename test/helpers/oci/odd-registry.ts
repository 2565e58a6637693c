// A registry in memory whose every answer a test may spoil.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { digestOf, noise } from './images.js';

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar+gzip';

export interface Request {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  /** Of a POST, else empty. */
  readonly body: string;
}

/** Answers instead of the registry when it returns true. */
export type Spoil = (
  request: Request,
  response: ServerResponse,
  content: Buffer | undefined,
) => boolean;

/** An image made of bytes: the layer is no tar file, which nobody looks at here. */
export function makeImage(seed = 'odd', layerBytes = 100_000) {
  const plain = noise(seed, layerBytes);
  const layer = gzipSync(plain);
  const config = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      config: { Cmd: ['/bin/true'] },
      rootfs: { type: 'layers', diff_ids: [digestOf(plain)] },
    }),
  );
  const describe = (mediaType: string, bytes: Buffer) => ({
    mediaType,
    digest: digestOf(bytes),
    size: bytes.length,
  });
  const manifest = {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: describe(CONFIG_TYPE, config),
    layers: [describe(LAYER_TYPE, layer)],
  };
  return { plain, layer, config, manifest };
}

export type OddImage = ReturnType<typeof makeImage>;

export class OddRegistry {
  readonly requests: Request[] = [];
  spoil: Spoil = () => false;
  /** By digest, and the manifest by any tag. */
  readonly content = new Map<string, { bytes: Buffer; type: string }>();
  #manifest: { bytes: Buffer; type: string } = { bytes: Buffer.of(), type: MANIFEST_TYPE };
  readonly #server: Server;
  readonly #port: number;

  private constructor(server: Server) {
    this.#server = server;
    this.#port = (server.address() as AddressInfo).port;
  }

  static async start(): Promise<OddRegistry> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const registry = new OddRegistry(server);
    server.on('request', async (message, response) => {
      const body = message.method === 'POST' ? await text(message) : '';
      registry.#answer(message, body, response);
    });
    return registry;
  }

  get host(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Serves an image, whole; `manifest` may be any document. */
  serve({ layer, config, manifest }: Omit<OddImage, 'plain' | 'manifest'> & { manifest: unknown }) {
    this.requests.length = 0;
    this.spoil = () => false;
    this.content.clear();
    this.add(layer);
    this.add(config);
    this.serveManifest(Buffer.from(JSON.stringify(manifest)));
  }

  serveManifest(bytes: Buffer, type = MANIFEST_TYPE): void {
    this.#manifest = { bytes, type };
    this.content.set(digestOf(bytes), this.#manifest);
  }

  add(bytes: Buffer, type = 'application/octet-stream'): void {
    this.content.set(digestOf(bytes), { bytes, type });
  }

  /** Requests for a part of the registry: `manifests` or `blobs`. */
  asked(kind: 'manifests' | 'blobs', digest = ''): Request[] {
    return this.requests.filter(({ path }) => path.includes(`/${kind}/${digest}`));
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  /** Listens again where it did before it was closed. */
  reopen(): void {
    this.#server.listen(this.#port, '127.0.0.1');
  }

  #answer(message: IncomingMessage, body: string, response: ServerResponse): void {
    const { method = 'GET', url: path = '/', headers } = message;
    const request = { method, path, headers, body };
    this.requests.push(request);
    const name = path.split('/').at(-1) ?? '';
    const isTag = path.includes('/manifests/') && !name.includes(':');
    const found = isTag ? this.#manifest : this.content.get(name);
    if (this.spoil(request, response, found?.bytes)) return;
    if (!found) {
      response.writeHead(path === '/v2/' ? 200 : 404).end();
      return;
    }
    sendRange(response, found.bytes, headers.range, found.type);
  }
}

/** Sends content, or the rest of it that was asked for. */
export function sendRange(
  response: ServerResponse,
  bytes: Buffer,
  range: string | undefined,
  type = 'application/octet-stream',
): void {
  const start = Number(/^bytes=([0-9]+)-$/.exec(range ?? '')?.[1] ?? 0);
  const headers = {
    'content-type': type,
    'content-length': bytes.length - start,
    ...(start > 0 && { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` }),
  };
  response.writeHead(start > 0 ? 206 : 200, headers).end(bytes.subarray(start));
}
