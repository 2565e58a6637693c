// HTTP to registries: one request with its redirects and time limits, and what of its failures may pass on a second try.
// undici's plain request() is used because fetch() would decode bodies and follow redirects behind our back.

import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, type Dispatcher, ProxyAgent, request } from 'undici';
import { VmforkError } from '../errors.js';
import { abortedError } from '../waiting.js';

const MAX_REDIRECTS = 5;
const MAX_WAIT_MS = 60_000;
const MAX_DOCUMENT_MS = 60_000;
const MAX_ERROR_BODY_BYTES = 64 * 1024;
const REDIRECTS = [301, 302, 303, 307, 308];
const BUSY = [408, 429, 500, 502, 503, 504];
const BROKEN = [
  'EAI_AGAIN',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'UND_ERR_BODY_TIMEOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_SOCKET',
];

/** When to try again, and when to give up. */
export interface RetryPolicy {
  /** Tries in a row that bring nothing. */
  readonly attempts: number;
  /** Wait before the second try, ms; it doubles with each further one. */
  readonly delayMs: number;
  /** Longest silence of a registry, ms. */
  readonly silenceMs: number;
}

export const DEFAULT_RETRY: RetryPolicy = { attempts: 5, delayMs: 500, silenceMs: 30_000 };

export interface HttpRequest {
  readonly method?: 'GET' | 'POST';
  readonly headers?: Record<string, string>;
  readonly body?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpResponse {
  /** Who answered. */
  readonly host: string;
  readonly status: number;
  readonly headers: Record<string, string | string[] | undefined>;
  readonly body: Dispatcher.ResponseData['body'];
  /** Whether the registry itself answered, and not a host that it redirected to. */
  readonly sameOrigin: boolean;
}

export class HttpClient {
  readonly #retry: RetryPolicy;
  readonly #trusting = new Map<string, Dispatcher>();
  readonly #insecureHost: string | undefined;

  /** `insecureHost`: for this host alone, plain HTTP and unverified certificates will do. */
  constructor(retry: RetryPolicy, insecureHost?: string) {
    this.#retry = retry;
    this.#insecureHost = insecureHost;
  }

  get retryPolicy(): RetryPolicy {
    return this.#retry;
  }

  /**
   * Sends a request and follows redirects, without the credentials when they lead to another host. What has a body, where
   * a token may be, stays with its host.
   */
  async send(url: URL, options: HttpRequest): Promise<HttpResponse> {
    let at = url;
    const headers = { ...options.headers };
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const response = await this.#sendOnce(at, { ...options, headers });
      const { location } = response.headers;
      if (!REDIRECTS.includes(response.statusCode) || typeof location !== 'string') {
        const { statusCode: status, body } = response;
        const sameOrigin = at.origin === url.origin;
        return { host: at.host, status, headers: response.headers, body, sameOrigin };
      }
      await response.body.dump();
      at = this.#redirect(at, location, options.body !== undefined);
      if (at.origin !== url.origin) delete headers.authorization;
    }
    throw new VmforkError('VMF_REGISTRY', `${url.host}: more than ${MAX_REDIRECTS} redirects`);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#trusting.values()].map((dispatcher) => dispatcher.destroy()));
  }

  /** Whether plain HTTP and unverified certificates will do for a host. */
  isInsecure(hostname: string): boolean {
    const known = this.#insecureHost;
    // All names of this machine are one.
    return hostname === known || (!!known && isLoopback(known) && isLoopback(hostname));
  }

  #redirect(from: URL, location: string, hasBody: boolean): URL {
    const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined;
    const allowed =
      to?.protocol === 'https:' || (to?.protocol === 'http:' && this.isInsecure(to.hostname));
    const stays = to?.origin === from.origin || !hasBody;
    if (to && allowed && stays && !to.username && !to.password) return to;
    const shown = JSON.stringify(location.slice(0, 200));
    throw new VmforkError('VMF_REGISTRY', `${from.host} redirects to ${shown}`);
  }

  async #sendOnce(url: URL, { method = 'GET', headers, body, signal }: HttpRequest) {
    try {
      const response = await request(url, {
        method,
        headers: { 'user-agent': 'vmfork', 'accept-encoding': 'identity', ...headers },
        body: body ?? null,
        signal: signal ?? null,
        dispatcher: this.#dispatcher(url),
      });
      // A body that is destroyed while nobody reads it must not end the process.
      response.body.on('error', () => {});
      return response;
    } catch (error) {
      throw httpFailure(url.host, error, signal);
    }
  }

  #dispatcher(url: URL): Dispatcher {
    const proxy = proxyFor(url);
    const trusting = this.isInsecure(url.hostname);
    const key = `${trusting} ${proxy}`;
    const found = this.#trusting.get(key);
    if (found) return found;
    const tls = { rejectUnauthorized: !trusting };
    const { silenceMs } = this.#retry;
    const limits = { headersTimeout: silenceMs, bodyTimeout: silenceMs };
    const connect = { timeout: silenceMs, ...tls };
    const made = proxy
      ? new ProxyAgent({ uri: proxy, requestTls: tls, ...limits })
      : new Agent({ connect, ...limits });
    this.#trusting.set(key, made);
    return made;
  }
}

/** The proxy that the environment names for an address: HTTPS_PROXY, HTTP_PROXY, except for NO_PROXY. */
export function proxyFor(url: URL, env: NodeJS.ProcessEnv = process.env): string | undefined {
  const name = url.protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY';
  const proxy = env[name.toLowerCase()] || env[name];
  if (!proxy || isLoopback(url.hostname)) return undefined;
  const exempt = (env.no_proxy || env.NO_PROXY || '').split(',').map((entry) => entry.trim());
  const isExempt = exempt.some((entry) => {
    const host = entry.replace(/^\*?\./, '');
    return entry === '*' || (host && (url.hostname === host || url.hostname.endsWith(`.${host}`)));
  });
  return isExempt ? undefined : proxy;
}

/** Whether a host name can only mean this machine. */
export function isLoopback(hostname: string): boolean {
  return (
    hostname === 'localhost' || hostname === '[::1]' || /^127(\.[0-9]{1,3}){3}$/.test(hostname)
  );
}

/** The error for a request or a body that broke off. */
export function httpFailure(host: string, thrown: unknown, signal?: AbortSignal): VmforkError {
  if (VmforkError.is(thrown)) return thrown;
  if (signal?.aborted) return abortedError('pull', signal);
  const error = thrown as NodeJS.ErrnoException;
  const errno = typeof error.errno === 'number' ? Math.abs(error.errno) : undefined;
  const detail = `${host}: ${error.message || error.code}`;
  return new VmforkError('VMF_REGISTRY', detail, { ...(errno && { errno }), cause: thrown });
}

/** Whether another try may help. `wasReached`: the registry answered before, so nobody at its address is on the way back. */
export function isTransient(thrown: unknown, wasReached: boolean): boolean {
  if (!VmforkError.is(thrown) || thrown.code !== 'VMF_REGISTRY') return false;
  if (thrown.status !== undefined) return BUSY.includes(thrown.status);
  const code = (thrown.cause as NodeJS.ErrnoException | undefined)?.code ?? '';
  return BROKEN.includes(code) || (wasReached && code === 'ECONNREFUSED');
}

/** The error for an answer that is no success. It carries what the registry says about it, and how long to wait. */
export async function statusError(what: string, response: HttpResponse): Promise<VmforkError> {
  const { status, headers } = response;
  const said = messageOf(await readBody(response, MAX_ERROR_BODY_BYTES).catch(() => Buffer.of()));
  const detail = `${what}: HTTP ${status}${said && `: ${said}`}`;
  if (status === 401 || status === 403)
    return new VmforkError('VMF_REGISTRY_AUTH', detail, { status });
  if (status === 404) return new VmforkError('VMF_IMAGE_NOT_FOUND', detail, { status });
  const cause = { retryAfterMs: retryAfterMs(headers['retry-after']) };
  return new VmforkError('VMF_REGISTRY', detail, { status, cause });
}

/** Waits before another try: what the registry asked for, else longer each time and never twice the same. */
export async function backOff(
  retry: RetryPolicy,
  failures: number,
  thrown: unknown,
  signal: AbortSignal | undefined,
): Promise<void> {
  const cause = VmforkError.is(thrown) ? (thrown.cause as { retryAfterMs?: number }) : undefined;
  const ownMs = retry.delayMs * 2 ** (failures - 1) * (0.5 + Math.random() / 2);
  const waitMs = Math.min(cause?.retryAfterMs ?? ownMs, MAX_WAIT_MS);
  try {
    await sleep(waitMs, undefined, { signal });
  } catch {
    throw abortedError('pull', signal as AbortSignal);
  }
}

/** A whole body of at most so many bytes, which must come within `MAX_DOCUMENT_MS` however steadily it drips. */
export async function readBody(
  response: HttpResponse,
  most: number,
  signal?: AbortSignal,
): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  const slow = Object.assign(new Error('the answer comes too slowly'), { code: 'ETIMEDOUT' });
  const timer = setTimeout(() => response.body.destroy(slow), MAX_DOCUMENT_MS);
  try {
    for await (const chunk of response.body) {
      size += chunk.length;
      if (size > most) throw new VmforkError('VMF_REGISTRY', tooLarge(response.host, most));
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } catch (error) {
    throw httpFailure(response.host, error, signal);
  } finally {
    clearTimeout(timer);
    response.body.destroy();
  }
}

const tooLarge = (host: string, most: number) => `${host}: the answer is larger than ${most} bytes`;

/** What a Retry-After header asks for: seconds, or a date (RFC 9110, 10.2.3). */
export function retryAfterMs(
  header: string | string[] | undefined,
  nowMs = Date.now(),
): number | undefined {
  if (typeof header !== 'string') return undefined;
  if (/^[0-9]{1,9}$/.test(header)) return Number(header) * 1000;
  // Of what is no date the parser makes one, too.
  const date = /^[A-Z][a-z]{2,8}, .* GMT$/.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(date - nowMs, 0);
}

/** The messages of an error answer (distribution spec, "Error Codes"), made fit to print. */
function messageOf(body: Buffer): string {
  try {
    const { errors } = JSON.parse(body.toString()) as { errors?: unknown };
    const list = Array.isArray(errors) ? (errors as { message?: unknown }[]) : [];
    const text = list.map((error) => String(error?.message ?? '')).join('; ');
    return text.replace(/[^\x20-\x7e]/g, '?').slice(0, 200);
  } catch {
    return '';
  }
}
