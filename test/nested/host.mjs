// Boots the nested host: QEMU emulates an AMD CPU with SVM, and a stock Debian kernel on it loads its
// own kvm_amd, so that what runs inside meets a real, unmodified KVM whatever this machine has.
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure, mustRun } from '../../scripts/lib/run.mjs';
import { ensureBaseImage, makeInitramfs, makeProjectImage } from './images.mjs';
import { ensureKernel } from './kernel.mjs';

const memoryMiB = 4096;
const resultDiskBytes = 64 << 20;
const guestCache = '/cache';

/** The emulated host died or stood still: no result of what ran in it. */
export class HostDied extends Failure {}

/**
 * Makes the files that every boot of the host shares and calls `use` with a function that boots one:
 * run({ argv, env, resultDir, timeoutMs, silenceMs, onOutput }) runs `argv` in /project of a fresh host, unpacks what
 * it leaves in /result into `resultDir` and resolves to its exit code. It rejects with HostDied when the host's kernel
 * panics, does not come to an end in time or (where `silenceMs` is given) puts nothing out for so long, with a Failure
 * when QEMU does not run.
 */
export async function withNestedHost(guestFiles, use) {
  const work = mkdtempSync(join(tmpdir(), 'vmfork-nested-'));
  const cleanUp = () => rmSync(work, { recursive: true, force: true });
  process.once('exit', cleanUp); // A signal ends the script without unwinding.
  try {
    const kernel = await ensureKernel();
    const shared = {
      kernel: kernel.vmlinuz,
      base: await ensureBaseImage(),
      project: join(work, 'project.erofs'),
    };
    await makeProjectImage(shared.project, guestFiles);
    let boots = 0;
    return await use(async ({ argv, env = {}, resultDir, ...watch }) => {
      const own = join(work, String(boots++));
      mkdirSync(own);
      const files = {
        ...shared,
        initrd: join(own, 'initrd'),
        result: join(own, 'result.tar'),
        console: join(own, 'console.log'),
      };
      writeFileSync(files.initrd, makeInitramfs(kernel, shellCommand(argv, env)));
      writeFileSync(files.result, '');
      truncateSync(files.result, resultDiskBytes);
      await boot(files, watch);
      return await unpackResult(files, resultDir);
    });
  } finally {
    process.off('exit', cleanUp);
    cleanUp();
  }
}

function shellCommand(argv, env) {
  const variables = {
    HOME: '/root',
    PATH: '/usr/bin:/bin',
    VMFORK_HOST: 'nested',
    VMFORK_CACHE_DIR: guestCache,
    ...env,
  };
  const exports = Object.entries(variables).map(
    ([name, value]) => `export ${name}=${quote(value)}`,
  );
  return [...exports, 'cd /project', `exec ${argv.map(quote).join(' ')}`, ''].join('\n');
}

const quote = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;

// One processor: with two, QEMU 7.2 loses a processor's state or an interrupt on some way out of a guest, every few minutes,
// and it is the other of this machine's that builds and tests meanwhile. Guests have as many as they ask for.
function qemuArguments(files) {
  const drive = (file, readonly) => [
    '-drive',
    `file=${file},if=virtio,format=raw,readonly=${readonly ? 'on' : 'off'}`,
  ];
  return [
    ...['-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm', '-smp', '1', '-m', `${memoryMiB}`],
    ...['-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot'],
    ...['-serial', `file:${files.console}`, '-serial', 'stdio'],
    ...['-kernel', files.kernel, '-initrd', files.initrd],
    ...['-append', 'console=ttyS0 panic=-1 quiet mitigations=off rdinit=/init'],
    ...[...drive(files.base, true), ...drive(files.project, true), ...drive(files.result, false)],
  ];
}

/** Runs QEMU until the nested host powers off. It is told to die with us. */
function boot(files, { timeoutMs, silenceMs, onOutput }) {
  return new Promise((resolve, reject) => {
    const args = ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...qemuArguments(files)];
    const qemu = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const errors = [];
    const fail = (what, Kind = Failure) =>
      reject(new Kind(`${what}\n${errors.join('')}${tail(files.console)}`));
    const endAfter = (limitMs, what) =>
      setTimeout(() => {
        qemu.kill('SIGKILL');
        fail(`the nested host ${what} ${limitMs / 1000} s`, HostDied);
      }, limitMs);
    const timer = endAfter(timeoutMs, 'did not finish within');
    const silence = silenceMs && endAfter(silenceMs, 'put nothing out for');
    qemu.stdout.on('data', (chunk) => {
      silence?.refresh();
      onOutput(chunk);
    });
    qemu.stderr.on('data', (chunk) => errors.push(chunk));
    qemu.on('error', (error) => fail(`QEMU did not start: ${error.message}`));
    qemu.on('close', (code) => {
      clearTimeout(timer);
      clearTimeout(silence);
      code === 0 ? resolve() : fail(`QEMU exited with ${code}`);
    });
  });
}

function tail(path) {
  if (!existsSync(path)) return '';
  return readFileSync(path, 'utf8').split('\n').slice(-30).join('\n');
}

async function unpackResult(files, resultDir) {
  mkdirSync(resultDir, { recursive: true });
  await mustRun('tar', ['-xf', files.result, '-C', resultDir]);
  const codePath = join(resultDir, 'exit-code');
  if (!existsSync(codePath)) {
    const died = readFileSync(files.console, 'utf8').includes('Kernel panic - not syncing');
    throw new (died ? HostDied : Failure)(`the command left no exit code\n${tail(files.console)}`);
  }
  return Number(readFileSync(codePath, 'utf8'));
}
