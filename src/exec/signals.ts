// Signal names and numbers. Host and guest are both Linux on x86-64, so the host's table is the guest's.

import { constants } from 'node:os';
import { VmforkError } from '../errors.js';

const NAMES = new Map<number, NodeJS.Signals>();
for (const [name, number] of Object.entries(constants.signals)) {
  // Of two names for one number (SIGIOT, SIGABRT) the first listed is the usual one.
  if (!NAMES.has(number)) NAMES.set(number, name as NodeJS.Signals);
}

const LAST_SIGNAL = 64;

/** The number of a signal given by name or number; throws `VMF_OPTIONS` for what is neither. */
export function signalNumber(signal: NodeJS.Signals | number): number {
  const number = typeof signal === 'number' ? signal : numberOf(signal);
  if (Number.isInteger(number) && number >= 1 && number <= LAST_SIGNAL) return number;
  throw new VmforkError(
    'VMF_OPTIONS',
    `signal must be a name or 1 to ${LAST_SIGNAL}, got ${signal}`,
  );
}

function numberOf(name: NodeJS.Signals): number {
  return constants.signals[name] ?? Number(/^SIG(\d+)$/.exec(name)?.[1]);
}

/** The name of a signal, e.g. `SIGKILL` for 9; real-time signals have none and are spelt `SIG40`. */
export function signalName(number: number): NodeJS.Signals {
  return NAMES.get(number) ?? (`SIG${number}` as NodeJS.Signals);
}
