// Names of images as Docker writes them: [HOST[:PORT]/]PATH[:TAG][@DIGEST], with Docker's defaults filled in.
// The grammar is that of github.com/distribution/reference; the default registry and `library/` are Docker's.

import { VmforkError } from '../errors.js';
import { isDigest } from './digest.js';

const DEFAULT_REGISTRY = 'docker.io';
const OFFICIAL_PREFIX = 'library/';
const DEFAULT_TAG = 'latest';
const MAX_TEXT = 1024;
const MAX_NAME = 255;

const HOST_PART = '[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?';
const HOST = new RegExp(
  `^(?:${HOST_PART}(?:\\.${HOST_PART})*|\\[[0-9A-Fa-f:]+\\])(?::[0-9]{1,5})?$`,
);
const PATH_PART = /^[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
// `docker run` takes 64 hex digits for the id of an image, so no repository may be called that.
const IMAGE_ID = /^[0-9a-f]{64}$/;

/** The name of an image in a registry. Made by {@link parseReference}. */
export class ImageReference {
  /** Host of the registry, with the port when there is one: `docker.io`, `localhost:5000`. */
  readonly registry: string;
  /** Path in the registry: `library/alpine`. */
  readonly repository: string;
  /** `latest` when the text had neither tag nor digest. */
  readonly tag: string | undefined;
  /** Digest of the manifest or index. It wins over the tag. */
  readonly digest: string | undefined;

  /** @internal Unchecked; use {@link parseReference}. */
  constructor(registry: string, repository: string, tag?: string, digest?: string) {
    this.registry = registry;
    this.repository = repository;
    this.tag = tag;
    this.digest = digest;
    Object.freeze(this);
  }

  /** The whole name, nothing left out: `docker.io/library/alpine:latest`. Parses back to an equal reference. */
  toString(): string {
    return `${this.registry}/${this.repository}${this.#suffix()}`;
  }

  /** The name as Docker shows it, without its defaults: `alpine:latest`. Parses back to an equal reference. */
  familiar(): string {
    const { registry, repository } = this;
    if (registry !== DEFAULT_REGISTRY) return this.toString();
    const isOfficial =
      repository.startsWith(OFFICIAL_PREFIX) &&
      !repository.slice(OFFICIAL_PREFIX.length).includes('/');
    const short = isOfficial ? repository.slice(OFFICIAL_PREFIX.length) : repository;
    // Without its host `docker.io/localhost/x` would be read as another image.
    return hasHost(short) ? this.toString() : `${short}${this.#suffix()}`;
  }

  #suffix(): string {
    return (this.tag ? `:${this.tag}` : '') + (this.digest ? `@${this.digest}` : '');
  }
}

/**
 * Parses an image reference by Docker's rules: `alpine`, `user/app:1.2`, `localhost:5000/app@sha256:…`.
 *
 * Without a host it is Docker Hub's, without tag and digest it is `latest`.
 * @throws VmforkError `VMF_IMAGE_REFERENCE` when the text is no reference.
 */
export function parseReference(text: string): ImageReference {
  if (typeof text !== 'string' || text.length === 0) throw malformed(text, 'it is empty');
  if (text.length > MAX_TEXT) throw malformed(text, `it is longer than ${MAX_TEXT} characters`);
  if (IMAGE_ID.test(text)) throw malformed(text, 'it is the id of an image, not a name');
  const [named = '', digest, ...more] = text.split('@');
  if (more.length > 0 || (digest !== undefined && !isDigest(digest))) {
    throw malformed(
      text,
      'the digest must be sha256: and 64, or sha512: and 128, lower hex digits',
    );
  }
  const { host, rest } = splitHost(named);
  const colon = rest.lastIndexOf(':');
  const path = colon < 0 ? rest : rest.slice(0, colon);
  const tag = colon < 0 ? undefined : rest.slice(colon + 1);
  if (tag !== undefined && !TAG.test(tag)) {
    throw malformed(
      text,
      'the tag must be 1 to 128 of A-Z a-z 0-9 _ . - and not begin with . or -',
    );
  }
  const registry = canonicalHost(text, host);
  const repository = canonicalPath(text, registry, path);
  const implied = tag === undefined && digest === undefined ? DEFAULT_TAG : tag;
  return new ImageReference(registry, repository, implied, digest);
}

function splitHost(named: string): { host: string | undefined; rest: string } {
  const slash = named.indexOf('/');
  if (!hasHost(named)) return { host: undefined, rest: named };
  return { host: named.slice(0, slash), rest: named.slice(slash + 1) };
}

/** What stands before the first slash is a host when no path could look like it, or when it is localhost. */
function hasHost(named: string): boolean {
  const slash = named.indexOf('/');
  if (slash < 0) return false;
  const first = named.slice(0, slash);
  return first === 'localhost' || /[.:A-Z]/.test(first);
}

function canonicalHost(text: string, host: string | undefined): string {
  if (host === undefined || host === DEFAULT_REGISTRY || host === 'index.docker.io') {
    return DEFAULT_REGISTRY;
  }
  const port = Number(/:([0-9]+)$/.exec(host)?.[1] ?? 443);
  if (!HOST.test(host) || port < 1 || port > 65_535) throw malformed(text, 'the host is malformed');
  return host;
}

function canonicalPath(text: string, registry: string, path: string): string {
  if (!path.split('/').every((part) => PATH_PART.test(part))) {
    const why = /[A-Z]/.test(path) ? 'the name must be in lower case' : 'the name is malformed';
    throw malformed(text, why);
  }
  const official = registry === DEFAULT_REGISTRY && !path.includes('/');
  const full = official ? `${OFFICIAL_PREFIX}${path}` : path;
  if (full.length > MAX_NAME) throw malformed(text, `the name is longer than ${MAX_NAME}`);
  return full;
}

function malformed(text: unknown, why: string): VmforkError {
  const shown = JSON.stringify(String(text).slice(0, 100));
  return new VmforkError('VMF_IMAGE_REFERENCE', `${shown}: ${why}`);
}
