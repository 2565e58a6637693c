// How a failure looks on a terminal: what happened, what to do next, and for a guest that ended, its last words.

import { VmforkError } from '../errors.js';

const CONSOLE_LINES = 12;

/** Lines for standard error. An error of our own needs no stack; anything else is a defect and keeps it. */
export function describeFailure(error: unknown): string {
  if (!VmforkError.is(error)) return error instanceof Error ? `${error.stack}` : String(error);
  const tail = error.consoleTail?.trimEnd().split('\n').slice(-CONSOLE_LINES) ?? [];
  return [
    `vmfork: ${error.message} (${error.code})`,
    `  what to do: ${error.hint}`,
    ...(tail.length > 0 ? ['  last console lines:', ...tail.map((line) => `  | ${line}`)] : []),
  ].join('\n');
}

/** The same for programs. */
export function failureToJson(error: unknown): object {
  if (!VmforkError.is(error)) return { error: { message: String(error) } };
  const { code, message, hint, operation, errno } = error;
  return { error: { code, message, hint, operation, errno } };
}
