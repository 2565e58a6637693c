// The states of a VM, the legal transitions, and which operation is legal in which state: one table each, used by the code,
// shown in docs/lifecycle.md and walked by the tests.

import { VmforkError } from '../errors.js';

/** State → the states it may go to. */
export const TRANSITIONS = {
  /** Booting, or forked and not yet itself. */
  starting: ['running', 'ended', 'destroyed'],
  running: ['freezing', 'pausing', 'resetting', 'ended', 'destroyed'],
  /** A snapshot is being taken; the guest stands still for a moment, calls wait. */
  freezing: ['running', 'ended', 'destroyed'],
  pausing: ['paused', 'running', 'ended', 'destroyed'],
  /** Its vCPUs stand still. */
  paused: ['resuming', 'ended', 'destroyed'],
  resuming: ['running', 'paused', 'ended', 'destroyed'],
  /** It goes back to its fork point; what waits on it fails. */
  resetting: ['running', 'ended', 'destroyed'],
  /** It ended by itself: crash, panic, reboot, broken protocol. */
  ended: ['destroyed'],
  /** It was destroyed by its owner. */
  destroyed: [],
} as const satisfies Record<string, readonly string[]>;

/** The state of a VM. */
export type VmState = keyof typeof TRANSITIONS;

const AWAKE: readonly VmState[] = ['running', 'freezing'];
const ALIVE: readonly VmState[] = ['running', 'freezing', 'pausing', 'paused', 'resuming'];

/** Operation → the states in which it is legal. `destroy` is legal always. */
export const OPERATIONS = {
  ping: AWAKE,
  exec: AWAKE,
  spawn: AWAKE,
  attach: AWAKE,
  detach: AWAKE,
  prepare: AWAKE,
  start: AWAKE,
  run: AWAKE,
  copyIn: AWAKE,
  copyOut: AWAKE,
  connect: AWAKE,
  connectTcp: AWAKE,
  connectUnix: AWAKE,
  waitForForkPoint: AWAKE,
  releaseForkPoint: AWAKE,
  readFile: AWAKE,
  writeFile: AWAKE,
  listen: ALIVE,
  memory: ALIVE,
  diff: AWAKE,
  attachDisk: ALIVE,
  detachDisk: ALIVE,
  pause: ['running'],
  resume: ['paused'],
  /** While another is being taken it waits. */
  snapshot: AWAKE,
  reset: ['running'],
} as const satisfies Record<string, readonly VmState[]>;

/** An operation with a precondition. */
export type Operation = keyof typeof OPERATIONS;

/** Whether a VM has ended, one way or the other. */
export function isOver(state: VmState): boolean {
  return state === 'ended' || state === 'destroyed';
}

/** Whether the table allows a transition. */
export function mayGo(from: VmState, to: VmState): boolean {
  return (TRANSITIONS[from] as readonly VmState[]).includes(to);
}

/** Throws `VMF_STATE` when the operation is not legal now. */
export function assertLegal(operation: Operation, state: VmState): void {
  const legal: readonly VmState[] = OPERATIONS[operation];
  if (legal.includes(state)) return;
  throw new VmforkError('VMF_STATE', `${operation} needs ${legal.join(' or ')}, it is ${state}`, {
    operation,
  });
}
