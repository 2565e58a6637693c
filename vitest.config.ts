// Two suites: `unit` runs anywhere in seconds, `kvm` needs /dev/kvm and runs one file at a time.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const source = fileURLToPath(new URL('./src', import.meta.url));
const nested = process.env.VMFORK_HOST === 'nested';

const alias = [
  { find: /^vmfork$/, replacement: `${source}/index.ts` },
  { find: /^#src\/(.*)\.js$/, replacement: `${source}/$1.ts` },
];

// An emulated CPU runs everything some 30 times slower; a PVM host interprets the guest's kernel.
const kvmTimeoutMs = nested ? 300_000 : 120_000;

export default defineConfig({
  resolve: { alias },
  test: {
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
          name: 'kvm',
          include: ['test/kvm/**/*.test.ts'],
          // What measures the library's own process rather than the guest runs on the machine's /dev/kvm only.
          exclude: nested ? ['test/kvm/{leaks,event-loop,examples}.test.ts'] : [],
          setupFiles: ['test/setup.ts'],
          fileParallelism: false,
          // A guest that the host leaves without a processor for seconds may miss a limit of its own; a defect fails thrice.
          retry: 2,
          testTimeout: kvmTimeoutMs,
          hookTimeout: kvmTimeoutMs,
        },
      },
    ],
  },
});
