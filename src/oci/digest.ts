// Digests of content: their syntax, and the check that bytes are what their digest says.

import { createHash, type Hash } from 'node:crypto';
import { VmforkError } from '../errors.js';

// The algorithms registered by the OCI image specification (descriptor.md, "Registered Algorithms") that Node has.
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** Whether a text is a digest that this library can check: `sha256:` or `sha512:` and lower hex digits. */
export function isDigest(text: unknown): text is string {
  return typeof text === 'string' && DIGEST.test(text);
}

/** Splits a checked digest. */
export function splitDigest(digest: string): { algorithm: string; hex: string } {
  const colon = digest.indexOf(':');
  return { algorithm: digest.slice(0, colon), hex: digest.slice(colon + 1) };
}

/** The SHA-256 digest of some bytes. */
export function sha256(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Hashes content as it passes by and says at the end whether it was the right one. */
export class DigestCheck {
  readonly #expected: string;
  readonly #hash: Hash;
  #sizeBytes = 0;

  constructor(expected: string) {
    this.#expected = expected;
    this.#hash = createHash(splitDigest(expected).algorithm);
  }

  /** How much has passed. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  update(bytes: Uint8Array): void {
    this.#sizeBytes += bytes.length;
    this.#hash.update(bytes);
  }

  /** Call it once, at the end. Throws `VMF_IMAGE_DIGEST` when it was other content; `what` names it. */
  finish(what: string): void {
    const { algorithm } = splitDigest(this.#expected);
    const actual = `${algorithm}:${this.#hash.digest('hex')}`;
    if (actual !== this.#expected) throw digestMismatch(what, this.#expected, actual);
  }
}

/** Checks bytes that are all there. */
export function checkDigest(what: string, expected: string, bytes: Uint8Array): void {
  const check = new DigestCheck(expected);
  check.update(bytes);
  check.finish(what);
}

export function digestMismatch(what: string, expected: string, actual: string): VmforkError {
  return new VmforkError('VMF_IMAGE_DIGEST', `${what}: expected ${expected}, got ${actual}`);
}
