// How a failure looks on a terminal: what happened, what to do next, and for a guest that ended, its last words.

import { type ErrorCode, VmforkError } from '../errors.js';
import { EXIT } from './exit-codes.js';
import { note, printJson } from './output.js';

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

const EXIT_CODES: Partial<Record<ErrorCode, number>> = {
  VMF_COMMAND_NOT_FOUND: EXIT.notFound,
  VMF_COMMAND_FAILED_TO_START: EXIT.cannotStart,
  VMF_TIMEOUT: EXIT.timedOut,
};

/** Tells of a failure of `exec` or `run`; returns their exit code for it. */
export function reportFailure(error: unknown, { json }: { json?: boolean }): number {
  if (json) printJson(failureToJson(error));
  else note(describeFailure(error));
  return (VmforkError.is(error) ? EXIT_CODES[error.code] : undefined) ?? EXIT.execFailed;
}
