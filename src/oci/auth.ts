// Authorization to a registry: Basic, and Bearer tokens fetched from the service that the registry names.
// Flow: distribution's "Token Authentication Specification" and, for identity tokens, its "OAuth2" companion.

import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import type { Credentials } from './credentials.js';
import {
  type HttpClient,
  type HttpRequest,
  type HttpResponse,
  readBody,
  statusError,
} from './http.js';
import { check, parseJson } from './schemas.js';

const MAX_TOKEN_BYTES = 1024 * 1024;
const MAX_CHALLENGE = 4096;
/** How long a token lives whose service does not say (Token Authentication Specification, "expires_in"). */
const DEFAULT_LIFE_S = 60;
/** A token is not used in its last moments, which might end on the way. */
const MARGIN_MS = 10_000;

const TOKEN = v.object({
  token: v.optional(v.string()),
  access_token: v.optional(v.string()),
  expires_in: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(1e9))),
});

interface Challenge {
  readonly scheme: string;
  readonly parameters: Readonly<Record<string, string>>;
}

export class Authorizer {
  readonly #http: HttpClient;
  readonly #findCredentials: () => Promise<Credentials | undefined>;
  readonly #bearer = new Map<string, { header: string; expiresMs: number }>();
  #credentials: Promise<Credentials | undefined> | undefined;
  #basic: string | undefined;

  /** `findCredentials` is called when the registry first asks for some. */
  constructor(http: HttpClient, findCredentials: () => Promise<Credentials | undefined>) {
    this.#http = http;
    this.#findCredentials = findCredentials;
  }

  /** What to send along without being asked. */
  header(scope: string): string | undefined {
    const token = this.#bearer.get(scope);
    if (token && token.expiresMs > Date.now()) return token.header;
    return this.#basic;
  }

  /** Answers a 401: the header for the next try. Undefined when there is nothing to answer with. */
  async answer(
    registry: URL,
    challengeHeader: string,
    scope: string,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    const challenges = parseChallenges(challengeHeader);
    this.#credentials ??= this.#findCredentials();
    const credentials = await this.#credentials;
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer) return this.#fetchToken(registry, bearer.parameters, scope, credentials, signal);
    if (!challenges.some(({ scheme }) => scheme === 'basic')) return undefined;
    this.#basic = basicHeader(credentials);
    return this.#basic;
  }

  async #fetchToken(
    registry: URL,
    parameters: Challenge['parameters'],
    scope: string,
    credentials: Credentials | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    if (credentials && 'registryToken' in credentials) {
      return this.#keep(scope, credentials.registryToken, DEFAULT_LIFE_S);
    }
    const realm = this.#tokenService(registry, parameters.realm);
    const query = { ...(parameters.service && { service: parameters.service }), scope };
    const response = await this.#http.send(...tokenRequest(realm, query, credentials, signal));
    if (response.status !== 200) throw await tokenFailure(realm, response);
    const bytes = await readBody(response, MAX_TOKEN_BYTES, signal);
    const answer = parseToken(realm, bytes);
    return this.#keep(scope, answer.token, answer.lifeS);
  }

  /** The address of the token service. In the clear passwords go only to a host for which that will do. */
  #tokenService(registry: URL, realm: string | undefined): URL {
    const url = realm !== undefined && URL.canParse(realm) ? new URL(realm) : undefined;
    const isPlain = url?.protocol === 'http:' && registry.protocol === 'http:';
    const allowed = url?.protocol === 'https:' || (isPlain && this.#http.isInsecure(url.hostname));
    if (url && allowed && !url.username && !url.password) return url;
    const shown = JSON.stringify(realm?.slice(0, 200));
    throw new VmforkError('VMF_REGISTRY_AUTH', `${registry.host} names ${shown} as token service`);
  }

  #keep(scope: string, token: string, lifeS: number): string {
    const header = `Bearer ${token}`;
    this.#bearer.set(scope, { header, expiresMs: Date.now() + lifeS * 1000 - MARGIN_MS });
    return header;
  }
}

async function tokenFailure(realm: URL, response: HttpResponse): Promise<VmforkError> {
  const error = await statusError(`token from ${realm.host}`, response);
  if (error.code !== 'VMF_IMAGE_NOT_FOUND') return error;
  return new VmforkError('VMF_REGISTRY_AUTH', `${realm.host} is no token service`, { status: 404 });
}

function tokenRequest(
  realm: URL,
  query: { service?: string; scope: string },
  credentials: Credentials | undefined,
  signal: AbortSignal | undefined,
): [URL, HttpRequest] {
  if (credentials && 'identityToken' in credentials) {
    const body = new URLSearchParams({
      grant_type: 'refresh_token',
      client_id: 'vmfork',
      refresh_token: credentials.identityToken,
      ...query,
    });
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    return [realm, { method: 'POST', headers, body: body.toString(), signal }];
  }
  const url = new URL(realm);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const authorization = basicHeader(credentials);
  return [url, { headers: { ...(authorization && { authorization }) }, signal }];
}

function parseToken(realm: URL, bytes: Buffer): { token: string; lifeS: number } {
  let answer: v.InferOutput<typeof TOKEN> | undefined;
  try {
    answer = check('token', TOKEN, parseJson('token', bytes));
  } catch {
    // The cause is left out: it could quote the token.
  }
  const token = answer?.token || answer?.access_token;
  // RFC 6750, 2.1: what a bearer token may consist of.
  if (!token || !/^[A-Za-z0-9._~+/-]+=*$/.test(token)) {
    throw new VmforkError('VMF_REGISTRY_AUTH', `${realm.host} answered without a usable token`);
  }
  return { token, lifeS: answer?.expires_in || DEFAULT_LIFE_S };
}

function basicHeader(credentials: Credentials | undefined): string | undefined {
  if (!credentials || !('username' in credentials)) return undefined;
  const pair = `${credentials.username}:${credentials.password}`;
  return `Basic ${Buffer.from(pair).toString('base64')}`;
}

/** The challenges of a WWW-Authenticate header (RFC 9110, 11.6.1): schemes with name="value" parameters. */
export function parseChallenges(text: string): Challenge[] {
  const header = text.slice(0, MAX_CHALLENGE);
  const challenges: { scheme: string; parameters: Record<string, string> }[] = [];
  const token = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
  const parameter = new RegExp(`(${token})\\s*=\\s*(?:"((?:[^"\\\\]|\\\\.)*)"|(${token}))`, 'y');
  const scheme = new RegExp(`(${token})(?=\\s|,|$)`, 'y');
  let at = 0;
  const take = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const match = pattern.exec(header);
    if (match) at = pattern.lastIndex;
    return match;
  };
  while (at < header.length) {
    const pair = take(parameter);
    const name = pair ? null : take(scheme);
    if (pair) {
      const value = pair[2]?.replace(/\\(.)/g, '$1') ?? pair[3] ?? '';
      const parameters = challenges.at(-1)?.parameters;
      if (parameters) parameters[(pair[1] ?? '').toLowerCase()] ??= value;
    } else if (name) {
      const parameters: Record<string, string> = Object.create(null);
      challenges.push({ scheme: (name[1] ?? '').toLowerCase(), parameters });
    } else at++;
  }
  return challenges;
}
