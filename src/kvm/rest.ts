// The guest's rest before a snapshot that many will be forked from.

import { setTimeout as sleep } from 'node:timers/promises';

const REST_MS = 700;

/**
 * What the guest's kernel puts off after a process has ended (RCU callbacks, their work items) is done when this resolves:
 * once, and not in each clone, where it would take up to 80 ms of an interpreted kernel.
 */
export const guestRest = (): Promise<void> => sleep(REST_MS);
