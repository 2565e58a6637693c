// One registry: manifests and blobs by the OCI distribution specification 1.1, with authorization and retries.

import { VmforkError } from '../errors.js';
import { Authorizer } from './auth.js';
import type { Credentials } from './credentials.js';
import { isDigest } from './digest.js';
import {
  backOff,
  DEFAULT_RETRY,
  HttpClient,
  type HttpResponse,
  isLoopback,
  isTransient,
  type RetryPolicy,
  readBody,
  statusError,
} from './http.js';
import { MAX_DOCUMENT_BYTES } from './limits.js';
import { ACCEPT } from './media-types.js';

const HUB = 'docker.io';
const HUB_HOST = 'registry-1.docker.io';

export interface RegistryOptions {
  /** Plain HTTP and unverified certificates will do. For this machine's own registries they always do. */
  readonly insecure: boolean;
  readonly findCredentials: () => Promise<Credentials | undefined>;
  readonly signal?: AbortSignal | undefined;
  readonly retry?: Partial<RetryPolicy> | undefined;
}

/** A manifest or index as it came. */
export interface Document {
  readonly bytes: Buffer;
  /** What the registry says that it is; undefined when it does not say. */
  readonly mediaType: string | undefined;
  /** What the registry says that its digest is. */
  readonly digest: string | undefined;
}

export class RegistryClient {
  readonly retry: RetryPolicy;
  readonly #http: HttpClient;
  readonly #authorizer: Authorizer;
  readonly #signal: AbortSignal | undefined;
  readonly #host: string;
  readonly #mayBePlain: boolean;
  #base: Promise<URL> | undefined;
  #wasReached = false;

  constructor(registry: string, { insecure, findCredentials, signal, retry }: RegistryOptions) {
    this.#host = registry === HUB ? HUB_HOST : registry;
    const { hostname } = new URL(`https://${this.#host}`);
    this.#mayBePlain = insecure || isLoopback(hostname);
    this.retry = { ...DEFAULT_RETRY, ...retry };
    this.#http = new HttpClient(this.retry, this.#mayBePlain ? hostname : undefined);
    this.#authorizer = new Authorizer(this.#http, findCredentials);
    this.#signal = signal;
  }

  /** Fetches a manifest or index by tag or digest. Its digest is the caller's to check. */
  manifest(repository: string, reference: string): Promise<Document> {
    return this.retrying(async () => {
      const path = `${repository}/manifests/${reference}`;
      const response = await this.#get(repository, path, { accept: ACCEPT });
      const what = `${this.#host}/${repository}:${reference}`.replace(/:(?=sha(256|512):)/, '@');
      if (response.status !== 200) throw await statusError(what, response);
      const bytes = await readBody(response, MAX_DOCUMENT_BYTES, this.#signal);
      const digest = singleHeader(response, 'docker-content-digest');
      const mediaType = singleHeader(response, 'content-type')?.split(';')[0]?.trim().toLowerCase();
      return { bytes, mediaType, digest: isDigest(digest) ? digest : undefined };
    });
  }

  /** Opens a blob from an offset on: one try, no retries. The status is 200 (from the beginning) or 206. */
  async blob(repository: string, digest: string, offsetBytes: number): Promise<HttpResponse> {
    const headers: Record<string, string> =
      offsetBytes > 0 ? { range: `bytes=${offsetBytes}-` } : {};
    const response = await this.#get(repository, `${repository}/blobs/${digest}`, headers);
    if (response.status === 200 || (offsetBytes > 0 && [206, 416].includes(response.status))) {
      return response;
    }
    throw await statusError(`${this.#host}/${repository}@${digest}`, response);
  }

  /** Repeats a step while its failures may pass. */
  async retrying<T>(step: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await step();
      } catch (error) {
        await this.waitAfter(error, failures);
      }
    }
  }

  /** Waits before another try after so many failures in a row. Throws the failure when there is to be none. */
  async waitAfter(error: unknown, failures: number): Promise<void> {
    if (failures >= this.retry.attempts || !isTransient(error, this.#wasReached)) throw error;
    await backOff(this.retry, failures, error, this.#signal);
  }

  close(): Promise<void> {
    return this.#http.close();
  }

  async #get(
    repository: string,
    path: string,
    headers: Record<string, string>,
  ): Promise<HttpResponse> {
    this.#base ??= this.#findBase();
    const base = await this.#base;
    const url = new URL(path, base);
    const scope = `repository:${repository}:pull`;
    const send = (authorization: string | undefined) =>
      this.#http.send(url, {
        headers: { ...headers, ...(authorization && { authorization }) },
        signal: this.#signal,
      });
    const first = await send(this.#authorizer.header(scope));
    this.#wasReached = true;
    const challenge = singleHeader(first, 'www-authenticate');
    if (first.status !== 401 || !first.sameOrigin || challenge === undefined) return first;
    await first.body.dump();
    const answer = await this.#authorizer.answer(base, challenge, scope, this.#signal);
    if (answer !== undefined) return send(answer);
    const detail = `${this.#host}/${repository}: there are no credentials for this registry`;
    throw new VmforkError('VMF_REGISTRY_AUTH', detail, { status: 401 });
  }

  /** HTTPS; where plain HTTP will do, whichever the server speaks. */
  async #findBase(): Promise<URL> {
    const secure = new URL(`https://${this.#host}/v2/`);
    if (!this.#mayBePlain) return secure;
    try {
      const { body } = await this.#http.send(secure, { signal: this.#signal });
      await body.dump();
      return secure;
    } catch (error) {
      if (VmforkError.is(error) && error.code === 'VMF_ABORTED') throw error;
      return new URL(`http://${this.#host}/v2/`);
    }
  }
}

function singleHeader({ headers }: HttpResponse, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}
