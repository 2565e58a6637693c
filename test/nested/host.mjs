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

/**
 * Runs `argv` in /project of a nested host; what it leaves in /result is unpacked into `resultDir`.
 * Resolves to its exit code; rejects with a Failure when the host itself does not come to an end.
 */
export async function runNested({
  argv,
  env = {},
  guestFiles = [],
  resultDir,
  timeoutMs,
  onOutput,
}) {
  const work = mkdtempSync(join(tmpdir(), 'vmfork-nested-'));
  const cleanUp = () => rmSync(work, { recursive: true, force: true });
  process.once('exit', cleanUp); // A signal ends the script without unwinding.
  try {
    const kernel = await ensureKernel();
    const files = {
      kernel: kernel.vmlinuz,
      initrd: join(work, 'initrd'),
      base: await ensureBaseImage(),
      project: join(work, 'project.erofs'),
      result: join(work, 'result.tar'),
      console: join(work, 'console.log'),
    };
    await makeProjectImage(files.project, guestFiles);
    writeFileSync(files.initrd, makeInitramfs(kernel, shellCommand(argv, env)));
    writeFileSync(files.result, '');
    truncateSync(files.result, resultDiskBytes);
    await boot(files, timeoutMs, onOutput);
    return await unpackResult(files, resultDir);
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

function qemuArguments(files) {
  const drive = (file, readonly) => [
    '-drive',
    `file=${file},if=virtio,format=raw,readonly=${readonly ? 'on' : 'off'}`,
  ];
  return [
    ...['-accel', 'tcg,thread=multi', '-cpu', 'EPYC,+svm', '-smp', '2', '-m', `${memoryMiB}`],
    ...['-display', 'none', '-monitor', 'none', '-nic', 'none', '-no-reboot'],
    ...['-serial', `file:${files.console}`, '-serial', 'stdio'],
    ...['-kernel', files.kernel, '-initrd', files.initrd],
    ...['-append', 'console=ttyS0 panic=-1 quiet mitigations=off rdinit=/init'],
    ...[...drive(files.base, true), ...drive(files.project, true), ...drive(files.result, false)],
  ];
}

/** Runs QEMU until the nested host powers off. It is told to die with us. */
function boot(files, timeoutMs, onOutput) {
  return new Promise((resolve, reject) => {
    const args = ['--pdeathsig', 'KILL', 'qemu-system-x86_64', ...qemuArguments(files)];
    const qemu = spawn('setpriv', args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => {
      qemu.kill('SIGKILL');
      fail(`the nested host did not finish within ${timeoutMs / 1000} s`);
    }, timeoutMs);
    const errors = [];
    const fail = (what) => reject(new Failure(`${what}\n${errors.join('')}${tail(files.console)}`));
    qemu.stdout.on('data', onOutput);
    qemu.stderr.on('data', (chunk) => errors.push(chunk));
    qemu.on('error', (error) => fail(`QEMU did not start: ${error.message}`));
    qemu.on('close', (code) => {
      clearTimeout(timer);
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
  if (!existsSync(codePath))
    throw new Failure(`the command left no exit code\n${tail(files.console)}`);
  return Number(readFileSync(codePath, 'utf8'));
}
