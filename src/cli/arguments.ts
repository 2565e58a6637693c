// Values of the command line's options, read and checked.

import { InvalidArgumentError } from 'commander';

/** Variables to set; those that are undefined are taken away. */
export type Variables = Readonly<Record<string, string | undefined>>;

const MOST_TIMEOUT_MS = 0x7fff_ffff;

/** `NAME=value`, or `NAME` for what it is here, which may be nothing. */
export function collectEnv(text: string, before: Variables): Variables {
  const at = text.indexOf('=');
  const name = at < 0 ? text : text.slice(0, at);
  if (name === '') throw new InvalidArgumentError('must be NAME=value or NAME');
  const value = at < 0 ? process.env[name] : text.slice(at + 1);
  return { ...before, [name]: value };
}

export function collect(text: string, before: string[] = []): string[] {
  return [...before, text];
}

export function collectTmpfs(
  text: string,
  before: Record<string, string> = {},
): Record<string, string> {
  const at = text.indexOf(':');
  const path = at < 0 ? text : text.slice(0, at);
  return { ...before, [path]: at < 0 ? '' : text.slice(at + 1) };
}

/** Sizes as docker takes them: bytes, or with k, m or g. */
export function parseMiB(text: string): number {
  const found = /^(\d+)([bkmg]?)b?$/i.exec(text);
  const shift = 'bkmg'.indexOf((found?.[2] || 'b').toLowerCase()) * 10;
  const mib = Math.floor((Number(found?.[1]) * 2 ** shift) / 2 ** 20);
  if (mib >= 1) return mib;
  throw new InvalidArgumentError('must be a size of at least 1 MiB, e.g. 256m or 1g');
}

/** Docker takes parts of processors, a machine has whole ones. */
export function parseCpus(text: string): number {
  const count = Math.ceil(Number(text));
  if (Number.isSafeInteger(count) && count >= 1) return count;
  throw new InvalidArgumentError('must be a number above 0, e.g. 2 or 0.5');
}

export function parseInteger(text: string): number {
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new InvalidArgumentError('must be a positive integer');
}

export function parseTimeout(text: string): number {
  const value = parseInteger(text);
  if (value <= MOST_TIMEOUT_MS) return value;
  throw new InvalidArgumentError(`must be at most ${MOST_TIMEOUT_MS}`);
}
