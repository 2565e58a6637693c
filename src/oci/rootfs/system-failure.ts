// Failed calls of node:fs as this library's errors.

import { VmforkError } from '../../errors.js';

/** `VMF_SYSTEM` with the call, its errno and the path. */
export function systemFailure(operation: string, path: string, cause: unknown): VmforkError {
  if (VmforkError.is(cause)) return cause;
  const errno = (cause as NodeJS.ErrnoException | undefined)?.errno;
  const text = cause instanceof Error ? cause.message : String(cause);
  return new VmforkError('VMF_SYSTEM', `${operation} ${path}: ${text}`, {
    operation,
    ...(typeof errno === 'number' && { errno: Math.abs(errno) }),
    cause,
  });
}
