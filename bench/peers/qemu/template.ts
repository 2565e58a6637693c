// QEMU's way to many machines from one (docs/system/vm-templating.rst in its source): boot with memory in a shared file,
// save only the device state, and start each clone over a private mapping of that file.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { AgentInfo } from '#src/exec/messages.js';
import { Session } from '#src/exec/session.js';
import { createIdentity, encodeIdentity } from '#src/kvm/identity.js';
import { msSince, now } from '../../harness/clock.js';
import { bootArguments, type MachinePaths, machineArguments, type PeerGuest } from './machine.js';
import { QemuProcess } from './monitor.js';

// Guest memory lies in RAM for both engines.
const SHARED_MEMORY_FOLDER = '/dev/shm';
const BOOT_TIMEOUT_MS = 120_000;
const RESTORE_TIMEOUT_MS = 10_000;
const POLL_MS = 20;
const STATE_FD = 3;
// Any will do: these machines have no vsock.
const TEMPLATE_CID = 3;
const CLONE_CID = 4;
const CAPABILITIES = { capabilities: [{ capability: 'x-ignore-shared', state: true }] };

/** Times of one clone, from the call on. */
export interface QemuSample {
  /** Until QEMU says that the machine runs. */
  restoreMs: number;
  /** Until the agent has taken its identity and answered a ping. */
  responseMs: number;
}

export class QemuTemplate {
  readonly #guest: PeerGuest;
  readonly #folder: string;
  readonly #control: ControlServer;
  #agent: AgentInfo | undefined;

  private constructor(guest: PeerGuest) {
    this.#guest = guest;
    this.#folder = mkdtempSync(join(SHARED_MEMORY_FOLDER, 'vmfork-bench-'));
    this.#control = new ControlServer(this.#paths.control);
  }

  /** Boots the guest, brings its agent to rest and saves the machine. */
  static async create(guest: PeerGuest): Promise<QemuTemplate> {
    const template = new QemuTemplate(guest);
    try {
      await template.#control.listening;
      await template.#bootAndSave();
      return template;
    } catch (error) {
      template.close();
      throw error;
    }
  }

  /** Starts one clone, measures it, and ends it. */
  async sample(): Promise<QemuSample> {
    const start = now();
    const qemu = this.#startClone();
    try {
      const running = this.#waitUntilRunning(qemu, start);
      const response = this.#waitUntilAnswered(start);
      const [restoreMs, responseMs] = await Promise.all([running, response]);
      return { restoreMs, responseMs };
    } finally {
      await qemu.kill();
    }
  }

  close(): void {
    this.#control.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #paths(): MachinePaths {
    return {
      memory: join(this.#folder, 'memory'),
      control: join(this.#folder, 'control'),
      console: join(this.#folder, 'console'),
    };
  }

  get #statePath(): string {
    return join(this.#folder, 'state');
  }

  async #bootAndSave(): Promise<void> {
    const args = machineArguments(this.#guest, this.#paths, 'shared');
    const qemu = new QemuProcess([...args, ...bootArguments(this.#guest)]);
    try {
      await qemu.execute('qmp_capabilities');
      const session = newSession(await this.#control.next(BOOT_TIMEOUT_MS), null);
      this.#agent = await session.hello;
      await giveIdentity(session);
      await session.quiesce({ timeoutMs: BOOT_TIMEOUT_MS });
      await qemu.execute('migrate-set-capabilities', CAPABILITIES);
      await qemu.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
      await qemu.execute('migrate', { uri: `exec:cat > ${this.#statePath}` });
      await migrated(qemu);
    } catch (error) {
      const console = readFileSync(this.#paths.console, 'utf8').slice(-2000);
      throw new Error(`the QEMU template did not come up; its console:\n${console}`, {
        cause: error,
      });
    } finally {
      await qemu.kill();
    }
  }

  // The state is read from an inherited descriptor (no helper process), the commands are all sent before QEMU reads the
  // first, and the kernel file is not named: everything that would only cost it time is left out.
  #startClone(): QemuProcess {
    const stateFd = openSync(this.#statePath, 'r');
    try {
      const args = machineArguments(this.#guest, this.#paths, 'private');
      return new QemuProcess([...args, '-incoming', 'defer'], [stateFd]);
    } finally {
      closeSync(stateFd);
    }
  }

  async #waitUntilRunning(qemu: QemuProcess, start: bigint): Promise<number> {
    const resumed = qemu.nextEvent('RESUME').then(() => msSince(start));
    resumed.catch(() => {}); // A command that fails has the better reason.
    await Promise.all([
      qemu.execute('qmp_capabilities'),
      qemu.execute('migrate-set-capabilities', CAPABILITIES),
      qemu.execute('migrate-incoming', { uri: `fd:${STATE_FD}` }),
    ]);
    return resumed;
  }

  // As in a fork: the identity waits in the channel before the guest's first instruction, and nobody talks to the clone
  // before it has acknowledged.
  async #waitUntilAnswered(start: bigint): Promise<number> {
    const session = newSession(await this.#control.next(RESTORE_TIMEOUT_MS), this.#agent ?? null);
    const identity = createIdentity(CLONE_CID);
    const limits = { timeoutMs: RESTORE_TIMEOUT_MS };
    await session.resume(1, encodeIdentity(1, identity), limits);
    await session.ping(undefined, limits);
    return msSince(start);
  }
}

function newSession(socket: Socket, agent: AgentInfo | null): Session {
  const past = agent && { agent, forkPoints: [] };
  const session: Session = new Session(socket, { onClosed: (error) => session.fail(error) }, past);
  return session;
}

/** As vmfork's template has one, too. */
async function giveIdentity(session: Session): Promise<void> {
  const limits = { timeoutMs: BOOT_TIMEOUT_MS };
  await session.quiesce(limits);
  await session.resume(0, encodeIdentity(0, createIdentity(TEMPLATE_CID)), limits);
}

async function migrated(qemu: QemuProcess): Promise<void> {
  for (;;) {
    const { status } = (await qemu.execute('query-migrate')) as { status?: string };
    if (status === 'completed') return;
    if (status === 'failed') throw new Error('QEMU could not save the template');
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Where machines connect their control channel: one connection each, in the order they start. */
class ControlServer {
  readonly #server: Server;
  readonly #accepted: Socket[] = [];
  readonly listening: Promise<void>;
  #wake: ((socket: Socket) => void) | undefined;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      socket.on('error', () => {}); // The session reports it.
      if (this.#wake) this.#wake(socket);
      else this.#accepted.push(socket);
    });
    this.listening = new Promise((resolve, reject) => {
      this.#server.once('error', reject).listen(path, resolve);
    });
  }

  next(timeoutMs: number): Promise<Socket> {
    const first = this.#accepted.shift();
    if (first) return Promise.resolve(first);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('QEMU did not connect')), timeoutMs);
      this.#wake = (socket) => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve(socket);
      };
    });
  }

  close(): void {
    this.#server.close();
  }
}
