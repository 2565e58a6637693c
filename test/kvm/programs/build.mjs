// Builds the programs that the kvm tests run inside guests: static, with musl, into build/ beside them.
// Where there is no compiler (the nested host) what was built before is used.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = dirname(fileURLToPath(import.meta.url));
const output = join(source, 'build');
const flags = ['-std=c11', '-D_GNU_SOURCE', '-static', '-s', '-Os', '-Wall', '-Wextra', '-Werror'];
// musl's own headers come first; linux/*.h are the kernel's, from linux-libc-dev.
const headers = ['-idirafter', '/usr/include', '-idirafter', '/usr/include/x86_64-linux-gnu'];

/** The folder of the built programs. */
export function buildTestPrograms() {
  mkdirSync(output, { recursive: true });
  for (const file of readdirSync(source).filter((name) => name.endsWith('.c'))) {
    const from = join(source, file);
    const to = join(output, file.slice(0, -2));
    if (existsSync(to) && statSync(to).mtimeMs >= statSync(from).mtimeMs) continue;
    compile(from, to);
  }
  return output;
}

function compile(from, to) {
  try {
    execFileSync('musl-gcc', [...flags, ...headers, '-o', to, from], { stdio: 'inherit' });
  } catch (error) {
    if (error.code !== 'ENOENT' || !existsSync(to)) throw error;
  }
}

if (process.argv[1] === import.meta.filename) buildTestPrograms();
