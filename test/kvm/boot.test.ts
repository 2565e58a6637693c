// Booting: what comes up, and every way in which it does not.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { Template } from 'vmfork';
import { BOOT_TIMEOUT_MS, isInterpreted } from '../helpers/kvm.js';

const directory = mkdtempSync(join(tmpdir(), 'vmfork-boot-'));
afterAll(() => rmSync(directory, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

/** The first bytes of an ELF64 file for a machine (ELF specification, figure 1-3). */
function elfHeader(machine: number): Buffer {
  const header = Buffer.alloc(4096);
  header.write('\x7fELF\x02\x01\x01', 'latin1');
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(machine, 18);
  header.writeUInt32LE(1, 20);
  return header;
}

test('a guest comes up, has its identity, reports its boot and goes on after a snapshot', async () => {
  await using template = await Template.boot({
    hostname: 'my-template',
    bootTimeoutMs: BOOT_TIMEOUT_MS,
  });
  expect(template.state).toBe('running');
  expect(template.agent).toMatchObject({ generation: 1, cpus: 1 });
  expect(template.agent.kernel).toMatch(/^6\./);
  const { stdout } = await template.exec(['uname', '-n']);
  expect(stdout).toBe('my-template\n');
  const stages = Object.fromEntries(template.timings().map(({ stage, ns }) => [stage, ns]));
  expect(stages).toMatchObject({ create: expect.any(Number), kernel: expect.any(Number) });
  expect((stages.kernel ?? 0) / 1e9).toBeLessThan(isInterpreted ? 120 : 15);
  const memory = await template.memory();
  expect(memory.residentBytes).toBeGreaterThan(4 * 1024 * 1024);
  expect(memory.residentBytes).toBeLessThanOrEqual(128 * 1024 * 1024);
  const readAhead = () => template.exec(['sh', '-c', 'cat /sys/block/vd?/queue/read_ahead_kb']);
  expect((await readAhead()).stdout).toBe('128\n'.repeat(3));
  await using snapshot = await template.snapshot();
  expect(snapshot.info.memoryBytes).toBe(128 * 1024 * 1024);
  expect(template.state).toBe('running');
  await template.ping();
  expect((await template.exec(['echo', 'on'])).stdout).toBe('on\n');
  // Reading ahead costs clones more than asking again where the kernel is interpreted; else the kernel's own choice is kept.
  expect((await readAhead()).stdout).toBe((isInterpreted ? '16\n' : '128\n').repeat(3));
});

describe('refused', () => {
  const boot = (options: object) => Template.boot(options);

  test.each([
    ['kernelPath', { kernelPath: '/no/such/vmlinux' }],
    ['initrdPath', { initrdPath: '/no/such/initrd' }],
    ['diskPaths', { diskPaths: ['/no/such/disk'] }],
  ])('a missing %s is VMF_KERNEL_NOT_FOUND', async (_, options) => {
    await expect(boot(options)).rejects.toMatchObject({
      code: 'VMF_KERNEL_NOT_FOUND',
      errno: 2,
      message: expect.stringContaining('/no/such/'),
    });
  });

  test('a file that is no kernel is VMF_KERNEL_INVALID', async () => {
    const kernelPath = file('text', 'this is not a kernel\n'.repeat(1000));
    await expect(boot({ kernelPath })).rejects.toMatchObject({ code: 'VMF_KERNEL_INVALID' });
    await expect(boot({ kernelPath: file('empty', '') })).rejects.toMatchObject({
      code: 'VMF_KERNEL_INVALID',
    });
  });

  test('a kernel for another processor is VMF_KERNEL_ARCH', async () => {
    const kernelPath = file('arm', elfHeader(183));
    await expect(boot({ kernelPath })).rejects.toMatchObject({ code: 'VMF_KERNEL_ARCH' });
  });

  test('memory that kernel and initramfs do not fit into is VMF_MEMORY_SIZE', async () => {
    const initrdPath = file('large', Buffer.alloc(40 * 1024 * 1024));
    await expect(boot({ memoryMiB: 32, initrdPath })).rejects.toMatchObject({
      code: 'VMF_MEMORY_SIZE',
    });
  });

  test('a wrong option is VMF_OPTIONS before anything is made', async () => {
    await expect(boot({ memoryMb: 5 })).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  });
});

describe('a guest that does not come up', () => {
  test('is VMF_BOOT_TIMEOUT when it is too slow', async () => {
    const booting = Template.boot({ bootTimeoutMs: 20 });
    await expect(booting).rejects.toMatchObject({
      code: 'VMF_BOOT_TIMEOUT',
      consoleTail: expect.any(String),
    });
  });

  test('is VMF_ABORTED when its caller gave up', async () => {
    const booting = Template.boot({ signal: AbortSignal.timeout(20) });
    await expect(booting).rejects.toMatchObject({
      code: 'VMF_ABORTED',
      cause: { name: 'TimeoutError' },
    });
  });

  test('is VMF_GUEST_PANIC when its kernel panics, with the kernel’s last words', async () => {
    const initrdPath = file('garbage', Buffer.alloc(4096, 0x5a));
    const error = await Template.boot({ initrdPath, bootTimeoutMs: BOOT_TIMEOUT_MS }).catch(
      (reason) => reason,
    );
    expect(error).toMatchObject({ code: 'VMF_GUEST_PANIC' });
    expect(error.consoleTail).toContain('Kernel panic');
  });
});
