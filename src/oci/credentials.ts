// Credentials for registries as `docker login` leaves them: config.json and the helper programs that it names.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import { hasErrno } from './failure.js';
import { check, parseJson } from './schemas.js';

/** Who we are to a registry: a name and password, or a token that it gave us earlier. */
export type Credentials =
  | { readonly username: string; readonly password: string }
  | { readonly identityToken: string }
  | { readonly registryToken: string };

const HUB = 'docker.io';
const HUB_KEY = 'https://index.docker.io/v1/';
const HELPER_MS = 30_000;
const MAX_HELPER_BYTES = 64 * 1024;
/** What a helper says as user name when the secret is an identity token (docker-credential-helpers). */
const TOKEN_USER = '<token>';

// A member that is null is one that is not there, as for Docker.
const text = v.nullish(v.string(), '');
const ENTRY = v.object({
  auth: text,
  username: text,
  password: text,
  identitytoken: text,
  registrytoken: text,
});
const CONFIG = v.object({
  auths: v.nullish(v.record(v.string(), v.nullish(ENTRY, {})), {}),
  credHelpers: v.nullish(v.record(v.string(), v.string()), {}),
  credsStore: text,
});
const HELPER_ANSWER = v.object({ Username: text, Secret: v.string() });

type DockerConfig = v.InferOutput<typeof CONFIG>;

/** What Docker's config has for a registry. Undefined: nothing. */
export async function dockerCredentials(
  registry: string,
  signal?: AbortSignal,
): Promise<Credentials | undefined> {
  const config = await readDockerConfig();
  if (!config) return undefined;
  const key = registry === HUB ? HUB_KEY : registry;
  const helper = config.credHelpers[registry] ?? config.credHelpers[key] ?? config.credsStore;
  const fromHelper = helper ? await askHelper(helper, key, signal) : undefined;
  return fromHelper ?? fromFile(config, registry);
}

async function readDockerConfig(): Promise<DockerConfig | undefined> {
  const folder = process.env.DOCKER_CONFIG || join(homedir(), '.docker');
  const path = join(folder, 'config.json');
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    if (hasErrno(cause, 'ENOENT') || hasErrno(cause, 'ENOTDIR')) return undefined;
    throw new VmforkError('VMF_REGISTRY_AUTH', `cannot read ${path}`, { cause });
  }
  try {
    return check(path, CONFIG, parseJson(path, bytes));
  } catch (cause) {
    throw new VmforkError('VMF_REGISTRY_AUTH', `${path} is malformed`, { cause });
  }
}

function fromFile(config: DockerConfig, registry: string): Credentials | undefined {
  const [, entry] = Object.entries(config.auths).find(([key]) => hostOf(key) === registry) ?? [];
  if (!entry) return undefined;
  if (entry.registrytoken) return { registryToken: entry.registrytoken };
  if (entry.identitytoken) return { identityToken: entry.identitytoken };
  const pair = entry.auth
    ? Buffer.from(entry.auth, 'base64').toString()
    : `${entry.username}:${entry.password}`;
  const colon = pair.indexOf(':');
  // An entry without content means that a helper holds the secret.
  if (colon <= 0) return undefined;
  // Docker pads old passwords with NUL.
  return { username: pair.slice(0, colon), password: pair.slice(colon + 1).replace(/\0+$/, '') };
}

/** The registry that a key of config.json stands for: a host, or an address with scheme and path. */
function hostOf(key: string): string {
  const [host = '', path = ''] = key.replace(/^https?:\/\//, '').split(/\/(.*)/s);
  if (host !== HUB && host !== 'index.docker.io' && host !== 'registry-1.docker.io') return host;
  // Docker keeps tokens for its own account beside, e.g. under https://index.docker.io/v1/access-token.
  return /^(v[12]\/?)?$/.test(path) ? HUB : key;
}

/** Asks `docker-credential-NAME get` for the secret of a server. Undefined: it has none. */
async function askHelper(
  name: string,
  server: string,
  signal: AbortSignal | undefined,
): Promise<Credentials | undefined> {
  const program = `docker-credential-${name}`;
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) {
    throw new VmforkError('VMF_REGISTRY_AUTH', `${JSON.stringify(name)} is no credential helper`);
  }
  const { code, output } = await runHelper(program, server, signal);
  if (code !== 0) {
    // The text is fixed in docker-credential-helpers, credentials/error.go.
    if (output.toString().includes('credentials not found')) return undefined;
    throw new VmforkError('VMF_REGISTRY_AUTH', `${program} get ended with exit code ${code}`);
  }
  // The cause is left out: it could quote the secret.
  const answer = v.safeParse(HELPER_ANSWER, jsonOrNothing(output));
  if (!answer.success) throw new VmforkError('VMF_REGISTRY_AUTH', `${program} answered nonsense`);
  const { Username: username, Secret: secret } = answer.output;
  return username === TOKEN_USER ? { identityToken: secret } : { username, password: secret };
}

function jsonOrNothing(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString());
  } catch {
    return undefined;
  }
}

function runHelper(program: string, input: string, signal: AbortSignal | undefined) {
  return new Promise<{ code: number | null; output: Buffer }>((resolve, reject) => {
    const failed = (cause: unknown) =>
      reject(new VmforkError('VMF_REGISTRY_AUTH', `cannot run ${program}`, { cause }));
    const stdio = ['pipe', 'pipe', 'ignore'] as ['pipe', 'pipe', 'ignore'];
    const limits = {
      timeout: HELPER_MS,
      killSignal: 'SIGKILL' as const,
      ...(signal && { signal }),
    };
    const child = spawn(program, ['get'], { stdio, ...limits });
    const chunks: Buffer[] = [];
    let size = 0;
    child.on('error', failed);
    child.stdout.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size <= MAX_HELPER_BYTES) chunks.push(chunk);
      else child.kill('SIGKILL');
    });
    child.on('close', (code) => resolve({ code, output: Buffer.concat(chunks) }));
    // It may end without reading; its exit code says why.
    child.stdin.on('error', () => {});
    child.stdin.end(`${input}\n`);
  });
}
