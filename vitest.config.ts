// Suites: `unit` runs anywhere in seconds, `fuzz` for as long as it is told to, `kvm` needs /dev/kvm and runs one file at a time.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = fileURLToPath(new URL('./src', import.meta.url));
const leftOutPath = new URL('./test/nested/left-out.json', import.meta.url);
const leftOut: string[] = JSON.parse(readFileSync(leftOutPath, 'utf8')).files;
const nested = process.env.VMFORK_HOST === 'nested';

const alias = [
  { find: /^vmfork$/, replacement: `${source}/index.ts` },
  { find: /^#src\/(.*)\.js$/, replacement: `${source}/$1.ts` },
];

// Both are slow: an emulated processor, and a PVM host, which interprets the guest's kernel.
const kvmTimeoutMs = 120_000;

// There the library is what `npm run build` made: compiling it once more would take the emulator longer than a short test.
const library = nested
  ? { test: { server: { deps: { external: [/\/dist\//] } } } }
  : { resolve: { alias } };

export default defineConfig({
  ...library,
  test: {
    ...library.test,
    pool: 'forks',
    teardownTimeout: 30_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts', 'test/property/**/*.test.ts'],
          setupFiles: ['test/setup.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'fuzz',
          include: ['test/fuzz/**/*.test.ts'],
          setupFiles: ['test/setup.ts'],
        },
      },
      {
        extends: true,
        test: {
          name: 'kvm',
          include: ['test/kvm/**/*.test.ts'],
          exclude: nested ? leftOut : [],
          setupFiles: ['test/setup.ts'],
          fileParallelism: false,
          // There a process of its own costs each file five seconds, as much as many a file takes.
          isolate: !nested,
          testTimeout: kvmTimeoutMs,
          hookTimeout: kvmTimeoutMs,
        },
      },
    ],
  },
});
