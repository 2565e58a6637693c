// Turns errors of Node's file system calls into this library's.

import { errnoName, VmforkError } from '../errors.js';

/** A failed step of the store. Errors of this library pass as they are. */
export function storeFailure(operation: string, thrown: unknown): VmforkError {
  if (VmforkError.is(thrown)) return thrown;
  const error = thrown as NodeJS.ErrnoException;
  const errno = typeof error.errno === 'number' ? Math.abs(error.errno) : undefined;
  const detail = errno ? `${operation}: ${errnoName(errno)}` : `${operation}: ${error.message}`;
  return new VmforkError('VMF_STORE', detail, {
    operation,
    ...(errno && { errno }),
    cause: thrown,
  });
}

/** Runs a step of the store and names it when it fails. */
export async function storing<T>(operation: string, step: () => Promise<T>): Promise<T> {
  try {
    return await step();
  } catch (error) {
    throw storeFailure(operation, error);
  }
}

export const hasErrno = (thrown: unknown, code: string): boolean =>
  (thrown as NodeJS.ErrnoException)?.code === code;

/** Waits for a step that may find its file gone, which is undefined then. */
export async function unlessMissing<T>(step: Promise<T>): Promise<T | undefined> {
  try {
    return await step;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}
