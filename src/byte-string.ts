// What a guest takes as bytes and JavaScript mostly has as text: arguments, values of variables, paths.

import { isAbsolute } from 'node:path';

/** Bytes for the guest's kernel, without NUL. A string stands for its UTF-8. */
export type ByteString = string | Uint8Array;

const SIGN = '='.charCodeAt(0);
const SLASH = '/'.charCodeAt(0);

export function isByteString(value: unknown): value is ByteString {
  if (typeof value === 'string') return !value.includes('\0');
  return value instanceof Uint8Array && !value.includes(0);
}

/** Whether this can be a path that does not depend on a working directory. */
export function isAbsolutePath(value: unknown): value is ByteString {
  if (!isByteString(value)) return false;
  return typeof value === 'string' ? isAbsolute(value) : value[0] === SLASH;
}

/** For messages: what is no UTF-8 is replaced. */
export function textOf(bytes: ByteString): string {
  return typeof bytes === 'string' ? bytes : Buffer.from(bytes).toString();
}

/** An entry of an environment: `NAME=value`. */
export function variable(name: string, value: ByteString): ByteString {
  if (typeof value === 'string') return `${name}=${value}`;
  return Buffer.concat([Buffer.from(`${name}=`), value]);
}

/** Takes an entry apart again. */
export function splitVariable(entry: ByteString): [name: string, value: ByteString] {
  if (typeof entry === 'string') {
    const sign = entry.indexOf('=');
    return [entry.slice(0, sign), entry.slice(sign + 1)];
  }
  const sign = entry.indexOf(SIGN);
  return [textOf(entry.subarray(0, sign)), entry.subarray(sign + 1)];
}
